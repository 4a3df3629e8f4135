"""The re-ID side of SPGAN in PyTorch: IDE, IDE+ and local max pooling (LMP)."""
