"""Features in, scores out: ranking, re-ranking, older protocols, feature files and pictures. See README.md in
this folder.
"""
