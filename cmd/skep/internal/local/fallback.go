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
	for _, c := range clusters {
		if c.Name == DefaultName || len(clusters) == 1 {
			f, err := os.Open(c.Kubeconfig())
			if err != nil {
				return ""
			}
			f.Close()
			return c.Kubeconfig()
		}
	}
	return ""
}
