// Runs CNI's own library (libcni, Debian's golang-github-appc-cni-dev) against a list of plugins, and reads results with
// its types: what the plugin is held against.
//
//	libcni add|check|del LIST PATH CACHE ID NETNS IFNAME ARGS CAPABILITIES   (ARGS: K=V;K=V, CAPABILITIES: a JSON object)
//	libcni result < RESULT      reads a result in the form of its cniVersion and writes what it understood of it
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types/create"
)

func fail(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	verb := os.Args[1]
	if verb == "result" {
		bytes, err := io.ReadAll(os.Stdin)
		fail(err)
		var head struct {
			CNIVersion string `json:"cniVersion"`
		}
		fail(json.Unmarshal(bytes, &head))
		result, err := create.Create(head.CNIVersion, bytes)
		fail(err)
		fail(result.Print())
		return
	}
	list, err := libcni.ConfListFromFile(os.Args[2])
	fail(err)
	library := libcni.NewCNIConfigWithCacheDir(strings.Split(os.Args[3], ":"), os.Args[4], nil)
	runtime := &libcni.RuntimeConf{ContainerID: os.Args[5], NetNS: os.Args[6], IfName: os.Args[7]}
	for _, pair := range strings.Split(os.Args[8], ";") {
		if key, value, found := strings.Cut(pair, "="); found {
			runtime.Args = append(runtime.Args, [2]string{key, value})
		}
	}
	fail(json.Unmarshal([]byte(os.Args[9]), &runtime.CapabilityArgs))
	switch verb {
	case "add":
		result, err := library.AddNetworkList(context.Background(), list, runtime)
		fail(err)
		fail(result.Print())
	case "check":
		fail(library.CheckNetworkList(context.Background(), list, runtime))
	case "del":
		fail(library.DelNetworkList(context.Background(), list, runtime))
	default:
		fail(fmt.Errorf("no verb %s", verb))
	}
}
