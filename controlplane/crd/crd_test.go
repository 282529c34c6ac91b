// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefinitionIsThatOfTheModule(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	published, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental", "policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(published, clusterNetworkPolicies) {
		t.Error("the definition is not that of the module in go.mod: run go generate ./controlplane/crd")
	}
}

func TestOnlyOlderDefinitionsAreReplaced(t *testing.T) {
	for _, c := range []struct {
		have, want string
		older      bool
	}{
		{"v0.1.1", "v0.2.0", true},
		{"v0.2.0", "v0.2.0", false},
		{"v0.3.0", "v0.2.0", false},
		{"", "v0.2.0", false},
		{"of our own", "v0.2.0", false},
	} {
		if got := older(c.have, c.want); got != c.older {
			t.Errorf("older(%q, %q) is %v", c.have, c.want, got)
		}
	}
}

func TestDefinitionsAreComplete(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	d := all[0]
	if d.Spec.Names.Kind != "ClusterNetworkPolicy" || !d.Spec.Versions[0].Served || d.Annotations[bundleVersion] == "" {
		t.Errorf("%s: %+v", d.Name, d.Spec.Names)
	}
	peer := d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["egress"].Items.Schema.Properties["to"].Items.Schema.Properties
	for _, field := range []string{"namespaces", "pods", "networks", "nodes", "domainNames"} {
		if _, ok := peer[field]; !ok {
			t.Errorf("egress peers have no field %s", field)
		}
	}
}
