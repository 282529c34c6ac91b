// SPDX-License-Identifier: Apache-2.0

// Command skep is the whole of skep in one binary: control plane, node agent, local clusters and kubectl.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run dispatches to skep's own commands or to kubectl, whose command tree costs time and memory that a
// long-running process must not pay, so it is built only when asked for.
func run(argv []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	if args, ok := kubectlArgs(root, argv); ok {
		return runKubectl(root, args)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root.SetArgs(argv[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "skep: %v\n", err)
		return 1
	}
	return 0
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "skep",
		Short: "Kubernetes in one binary, with its network at heart",
		Long: `skep runs a Kubernetes-API control plane, a node agent on containerd and an eBPF datapath.

"skep up" starts a local cluster. Every kubectl command works as a command of skep, too: "skep get pods -A" is
"skep kubectl get pods -A", and a link named kubectl that points to skep is kubectl.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddGroup(
		&cobra.Group{ID: groupLocal, Title: "A local cluster:"},
		&cobra.Group{ID: groupHost, Title: "Real hosts:"},
		&cobra.Group{ID: groupOther, Title: "And:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.AddCommand(
		upCommand(), downCommand(), statusCommand(), netCommand(), policyCommand(), kubeconfigCommand(), imageCommand(),
		serverCommand(), agentCommand(), nodeCommand(), dnsCommand(), pullerCommand(),
		forwardCommand(), containerLogCommand(), versionCommand(), kubectlCommand(),
	)
	return root
}

const (
	groupLocal = "local"
	groupHost  = "host"
	groupOther = "other"
)
