// WeftAPI
