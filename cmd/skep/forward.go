// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/forward"
)

// inheritedListener is the first descriptor after the standard ones.
const inheritedListener = 3

func forwardCommand() *cobra.Command {
	var to, from string
	cmd := &cobra.Command{
		Use:    "forward",
		Short:  "Carry connections from an inherited listener to an address",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: longRunning(func(ctx context.Context, _ []string) error {
			l, err := net.FileListener(os.NewFile(inheritedListener, from))
			if err != nil {
				return fmt.Errorf("descriptor %d is not a listener: %w", inheritedListener, err)
			}
			return forward.Run(ctx, l, to, logger())
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "address to dial for each connection")
	cmd.Flags().StringVar(&from, "from", "", "address of the inherited listener, for people who read process lists")
	return cmd
}
