// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/event"
)

// drainInterval is how often the ring of events is emptied: it holds 4,096, and to wake a reader for each would cost the packets.
const drainInterval = 100 * time.Millisecond

// FollowAudit reads the ring of events until ctx or the datapath ends.
func (d *Datapath) FollowAudit(ctx context.Context, take func(datapath.AuditEvent)) (err error) {
	events, err := event.NewReader(d.objects.Maps)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	ticker := time.NewTicker(drainInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.stop:
			return nil
		case <-ticker.C:
		}
		if err := events.Drain(take); err != nil {
			return err
		}
	}
}
