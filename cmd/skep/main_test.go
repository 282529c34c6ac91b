// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"
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
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		if c.Hidden {
			return
		}
		if c.Short == "" || strings.Contains(c.Short, "\n") {
			t.Errorf("%s has no description of one line", c.CommandPath())
		}
		if c.Parent() == c.Root() && c.GroupID == "" {
			t.Errorf("%s is in no group", c.CommandPath())
		}
		if c.HasParent() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(rootCommand())
}

func TestHelpIsTheSameOnEveryHost(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	var out, errs bytes.Buffer
	if code := run([]string{"skep", "agent", "--help"}, &out, &errs); code != 0 || strings.Contains(out.String(), `"`+host+`"`) {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
}

func TestUnknownCommands(t *testing.T) {
	kubectl := cmd.NewKubectlCommand(cmd.KubectlOptions{IOStreams: genericiooptions.NewTestIOStreamsDiscard()})
	for line, want := range map[string]string{
		"get pods":      "",
		"-n x get pods": "",
		"--help":        "",
		"stauts":        `skep: unknown command "stauts": did you mean status?`,
		"aply -f x":     `skep: unknown command "aply": did you mean apply?`,
		"nonsense":      `skep: unknown command "nonsense": "skep --help" lists skep's own, "skep kubectl --help" those of kubectl`,
	} {
		if got := unknown(rootCommand(), kubectl, strings.Fields(line)); got != want {
			t.Errorf("%s: %q, not %q", line, got, want)
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
