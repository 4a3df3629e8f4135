"""DCGAN (Sec. 3.1): generates unlabelled people from noise."""
