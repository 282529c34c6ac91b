// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// writeOwn writes a cluster's kubeconfig as the server does.
func writeOwn(t *testing.T, c Cluster, server string) {
	t.Helper()
	config := api.NewConfig()
	config.Clusters["skep"] = &api.Cluster{Server: server}
	config.AuthInfos["admin"] = &api.AuthInfo{Token: "t"}
	config.Contexts["admin@skep"] = &api.Context{Cluster: "skep", AuthInfo: "admin"}
	config.CurrentContext = "admin@skep"
	if err := clientcmd.WriteToFile(*config, c.Kubeconfig()); err != nil {
		t.Fatal(err)
	}
	if err := c.writeState(State{Nodes: 1, APIPort: 6443}); err != nil {
		t.Fatal(err)
	}
}

// privateFolders points the package and kubectl's rules at empty folders.
func privateFolders(t *testing.T) (kubeconfig string) {
	t.Helper()
	old := dataRoot
	dataRoot = t.TempDir()
	t.Cleanup(func() { dataRoot = old })
	kubeconfig = filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", kubeconfig)
	return kubeconfig
}

func load(t *testing.T, file string) *api.Config {
	t.Helper()
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestMergeAndUnmergeLeaveOtherClustersAlone(t *testing.T) {
	file := privateFolders(t)
	other := api.NewConfig()
	other.Clusters["prod"] = &api.Cluster{Server: "https://prod"}
	other.AuthInfos["me"] = &api.AuthInfo{Token: "mine"}
	other.Contexts["prod"] = &api.Context{Cluster: "prod", AuthInfo: "me", Namespace: "shop"}
	other.CurrentContext = "prod"
	if err := clientcmd.WriteToFile(*other, file); err != nil {
		t.Fatal(err)
	}
	c := Cluster{Name: "dev"}
	for _, server := range []string{"https://127.0.0.1:1", "https://127.0.0.1:2"} { // the second is a new cluster of the same name
		writeOwn(t, c, server)
		if _, err := c.mergeKubeconfig(); err != nil {
			t.Fatal(err)
		}
		got := load(t, file)
		if got.CurrentContext != "skep-dev" || got.Clusters["skep-dev"].Server != server || got.AuthInfos["skep-dev"].Token != "t" {
			t.Errorf("after merge: %+v", got)
		}
	}
	if err := c.unmergeKubeconfig(); err != nil {
		t.Fatal(err)
	}
	got := load(t, file)
	if len(got.Clusters) != 1 || len(got.AuthInfos) != 1 || len(got.Contexts) != 1 || got.Contexts["prod"].Namespace != "shop" || got.CurrentContext != "" {
		t.Errorf("after unmerge: %+v", got)
	}
}

func TestUnmergeDoesNotTouchAFileWithoutTheCluster(t *testing.T) {
	file := privateFolders(t)
	if err := (Cluster{Name: "dev"}).unmergeKubeconfig(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a file was made: %v", err)
	}
}

func TestKubeconfigFallback(t *testing.T) {
	file := privateFolders(t)
	dev := Cluster{Name: "dev"}
	check := func(what, want string, env string, args ...string) {
		t.Helper()
		if got := KubeconfigFallback(args, env); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	check("no cluster", "", "", "get", "pods")
	writeOwn(t, dev, "https://127.0.0.1:1")
	check("the only cluster", dev.Kubeconfig(), "", "get", "pods")
	check("a flag wins", "", "", "get", "pods", "--context", "x")
	check("a flag with a value wins", "", "", "--kubeconfig=/x", "get", "pods")
	check("a flag of the command in a pod does not", dev.Kubeconfig(), "", "exec", "p", "--", "tool", "--context", "x")
	check("the environment wins", "", "/x", "get", "pods")
	writeOwn(t, Cluster{Name: "two"}, "https://127.0.0.1:2")
	check("two clusters, none of them the default", "", "", "get", "pods")
	writeOwn(t, Cluster{Name: DefaultName}, "https://127.0.0.1:3")
	check("the default cluster", Cluster{Name: DefaultName}.Kubeconfig(), "", "get", "pods")
	if _, err := dev.mergeKubeconfig(); err != nil { // sets a current context
		t.Fatal(err)
	}
	if load(t, file).CurrentContext == "" {
		t.Fatal("no current context")
	}
	check("the current context wins", "", "", "get", "pods")
}
