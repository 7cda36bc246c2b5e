import GRDB
import Hummingbird
import Yams
