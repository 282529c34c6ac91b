// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
)

// explicitFlags are kubectl's flags that say which cluster is meant.
var explicitFlags = []string{"--kubeconfig", "--context", "--cluster", "--server", "-s"}

// KubeconfigFallback returns the kubeconfig of this machine's local cluster when the user has said nowhere which
// cluster is meant: no flag, no $KUBECONFIG and no current context. Otherwise, or if there is no single
// candidate that can be read, it returns nothing and kubectl's own rules apply.
func KubeconfigFallback(args []string, env string) string {
	if env != "" || explicit(args) {
		return ""
	}
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	if err != nil || config.CurrentContext != "" {
		return ""
	}
	return only(Clusters())
}

func explicit(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		for _, flag := range explicitFlags {
			if a == flag || strings.HasPrefix(a, flag+"=") {
				return true
			}
		}
	}
	return false
}

// only picks the default cluster, or the only one.
func only(clusters []Cluster) string {
	c, ok := meant(clusters)
	if !ok {
		return ""
	}
	f, err := os.Open(c.Kubeconfig())
	if err != nil {
		return ""
	}
	f.Close()
	return c.Kubeconfig()
}

// meant is the cluster that a command is about when no name is given: the default one, or the only one.
func meant(clusters []Cluster) (c Cluster, ok bool) {
	for _, c := range clusters {
		if c.Name == DefaultName || len(clusters) == 1 {
			return c, true
		}
	}
	return Cluster{}, false
}

// Meant names the cluster of this machine that is meant when the user gives no name. Without a single candidate it is the default
// name, about which the command then says that there is no such cluster.
func Meant() string {
	if c, ok := meant(Clusters()); ok {
		return c.Name
	}
	return DefaultName
}
