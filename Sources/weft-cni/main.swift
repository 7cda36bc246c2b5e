import Glibc
import WeftCNI

exit(Program.main(CommandLine.arguments))
