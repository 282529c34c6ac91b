// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"skep.dev/skep/cmd/skep/internal/local"
)

// kubectlCommand is here for the help text; kubectlArgs catches it before cobra does.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{Use: "kubectl", Short: "kubectl, built in: every command of it is a command of skep, too", GroupID: groupOther,
		Example: "  skep get pods -A\n  skep kubectl version", Run: func(*cobra.Command, []string) {}}
}

// kubectlArgs decides whether a command line is for kubectl, and returns kubectl's arguments: when the binary is
// called kubectl, after "skep kubectl", and whenever the first word is no command of skep's own.
func kubectlArgs(root *cobra.Command, argv []string) (args []string, ok bool) {
	name, args := filepath.Base(argv[0]), argv[1:]
	if strings.HasPrefix(name, "kubectl") {
		return args, true
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		return nil, false
	}
	if args[0] == "kubectl" {
		return args[1:], true
	}
	for _, c := range root.Commands() {
		if c.Name() == args[0] || c.HasAlias(args[0]) {
			return nil, false
		}
	}
	return args, true
}

// runKubectl runs the embedded kubectl.
func runKubectl(root *cobra.Command, args []string) int {
	if file := local.KubeconfigFallback(args, os.Getenv("KUBECONFIG")); file != "" {
		os.Setenv("KUBECONFIG", file)
	}
	// The command tree reads the program's arguments itself, to look for plugins.
	os.Args = append([]string{"kubectl"}, args...)
	command := cmd.NewDefaultKubectlCommand() // does not come back when a plugin takes the command
	if message := unknown(root, command, args); message != "" {
		fmt.Fprintln(os.Stderr, message)
		return 1
	}
	if err := cli.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err) // prints in kubectl's own way and exits
	}
	return 0
}

// likeness is how many letters a suggested command may differ by.
const likeness = 2

// unknown says what to do about a first word that is a command neither of skep nor of kubectl; otherwise it is empty.
func unknown(root, kubectl *cobra.Command, args []string) string {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return "" // kubectl says itself what is wrong
	}
	if _, _, err := kubectl.Find(args); err == nil {
		return ""
	}
	root.SuggestionsMinimumDistance, kubectl.SuggestionsMinimumDistance = likeness, likeness
	message := fmt.Sprintf("skep: unknown command %q", args[0])
	if similar := append(root.SuggestionsFor(args[0]), kubectl.SuggestionsFor(args[0])...); len(similar) > 0 {
		return message + ": did you mean " + strings.Join(similar, " or ") + "?"
	}
	return message + `: "skep --help" lists skep's own, "skep kubectl --help" those of kubectl`
}
