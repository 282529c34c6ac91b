// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNamespaceGetsItsDefaults(t *testing.T) {
	c, ns := start(t)
	eventually(t, "default service account", func() string {
		if _, err := c.client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	eventually(t, "root CA", func() string {
		m, err := c.client.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if m.Data["ca.crt"] != string(c.config.CAData) {
			return "another CA than the kubeconfig's"
		}
		return ""
	})
}
