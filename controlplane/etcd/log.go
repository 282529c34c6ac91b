// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger hands etcd's log to ours, from warnings up: etcd writes some forty lines at Info on each start.
// A fatal message or a panic ends only the goroutine that wrote it, after fail was told.
func zapLogger(log *slog.Logger, started *atomic.Bool, fail func(error)) *zap.Logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	hook := failHook{fail: fail}
	return zap.New(&slogCore{log: log, started: started}, zap.WithPanicHook(hook), zap.WithFatalHook(hook))
}

// failHook implements zapcore.CheckWriteHook.
type failHook struct{ fail func(error) }

func (h failHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	text := entry.Message
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok {
			text += ": " + err.Error()
		}
	}
	h.fail(errors.New(text))
	runtime.Goexit()
}

// slogCore implements zapcore.Core.
type slogCore struct {
	log     *slog.Logger
	started *atomic.Bool
	fields  []zapcore.Field
}

func (c *slogCore) Enabled(level zapcore.Level) bool {
	return level > zapcore.ErrorLevel || level >= zapcore.WarnLevel && c.started.Load()
}

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log, started: c.started, fields: append(append([]zapcore.Field(nil), c.fields...), fields...)}
}

func (c *slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// firstStart is what etcd says, as a warning and an error, until a fresh store has its first log entries.
var firstStart = []string{"Failed to detect schema version", "failed to update storage version"}

func (c *slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if slices.Contains(firstStart, entry.Message) {
		return nil
	}
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(encoder)
	}
	for _, f := range fields {
		f.AddTo(encoder)
	}
	attrs := make([]slog.Attr, 0, len(encoder.Fields))
	for k, v := range encoder.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	level := slog.LevelWarn
	if entry.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.log.LogAttrs(context.Background(), level, entry.Message, attrs...)
	return nil
}

func (c *slogCore) Sync() error { return nil }
