"""ARN: Adaptation and Re-Identification Network (Li et al., CVPRW 2018)."""
