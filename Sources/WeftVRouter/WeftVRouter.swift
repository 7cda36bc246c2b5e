// WeftVRouter
