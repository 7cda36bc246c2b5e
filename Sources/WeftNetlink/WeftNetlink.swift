// WeftNetlink
