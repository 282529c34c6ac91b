// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// logLibraries sends what the Kubernetes libraries log to our log, errors only. Their logger is global to the process.
//
// Through slog the libraries write warnings and fatal errors at level Info, among much else. So the last record that
// was dropped is kept, and written when a library ends the process: it says why.
func logLibraries(log *slog.Logger) {
	last := &atomic.Pointer[slog.Record]{}
	klog.SetSlogLogger(slog.New(errorsOnly{Handler: log.Handler(), last: last}))
	klog.OsExit = func(code int) {
		if r := last.Load(); r != nil {
			log.Error(r.Message)
		}
		os.Exit(code)
	}
}

// errorsOnly drops records below Error and remembers the last of them.
type errorsOnly struct {
	slog.Handler
	last *atomic.Pointer[slog.Record]
}

func (h errorsOnly) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (h errorsOnly) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelError {
		h.last.Store(&r)
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h errorsOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return errorsOnly{Handler: h.Handler.WithAttrs(attrs), last: h.last}
}

func (h errorsOnly) WithGroup(name string) slog.Handler {
	return errorsOnly{Handler: h.Handler.WithGroup(name), last: h.last}
}
