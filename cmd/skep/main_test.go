// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestKubectlArgs(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       []string // nil: a command of skep's own
	}{
		{"any verb of kubectl is kubectl's", "skep get pods -A", []string{"get", "pods", "-A"}},
		{"flags may come first", "skep -n kube-system get pods", []string{"-n", "kube-system", "get", "pods"}},
		{"the explicit form", "/usr/bin/skep kubectl version", []string{"version"}},
		{"a link named kubectl", "/usr/local/bin/kubectl up", []string{"up"}},
		{"a plugin-style link", "kubectl-1.37 get ns", []string{"get", "ns"}},
		{"own commands are skep's", "skep up --nodes 3", nil},
		{"own version wins", "skep version", nil},
		{"help is skep's", "skep --help", nil},
		{"nothing is help", "skep", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := kubectlArgs(rootCommand(), strings.Fields(tc.line))
			if ok != (tc.want != nil) || !slices.Equal(got, tc.want) && ok {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	for _, c := range rootCommand().Commands() {
		if c.Short == "" {
			t.Errorf("%s has no description", c.Name())
		}
	}
}

func TestFaultsArePrintedOnce(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"skep", "up", "--name", "UPPER"}, &out, &errs); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if strings.Count(errs.String(), "cluster name") != 1 || out.Len() != 0 {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
}
