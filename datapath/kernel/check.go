// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/check"
	"skep.dev/skep/datapath/loader"
)

// Ask runs the check program.
func (d *Datapath) Ask(_ context.Context, questions []datapath.Question) ([]datapath.Answer, error) {
	return check.Ask(d.objects.Programs[loader.ProgramCheck], questions)
}

// Verify compares the maps with what should be in them, and repairs them.
func (d *Datapath) Verify(ctx context.Context) ([]datapath.Repair, error) {
	return d.node.Verify(ctx)
}
