"""DCGAN (Sec. 3.1): unlabelled people out of noise."""
