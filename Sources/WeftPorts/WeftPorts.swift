// WeftPorts
