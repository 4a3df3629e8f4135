"""HHL: Hetero-Homogeneous Learning (Zhong et al., ECCV 2018)."""
