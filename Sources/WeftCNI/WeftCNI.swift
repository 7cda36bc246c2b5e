// WeftCNI
