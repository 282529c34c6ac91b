// SPDX-License-Identifier: Apache-2.0

package podlog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

// maxLine is the longest piece of a line in one record; longer lines are split and marked partial, as the CRI format has it.
const maxLine = 16 << 10

// timeFormat has a fixed width, so that logs align and sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// file is one log file with rotation. Both streams of a container write to it.
type file struct {
	mu       sync.Mutex // guards all below
	path     string
	maxBytes int64
	maxFiles int
	f        *os.File
	size     int64
	now      func() time.Time
	buf      []byte
}

func openFile(s Stream, now func() time.Time) (*file, error) {
	l := &file{path: s.Path, maxBytes: s.MaxBytes, maxFiles: s.MaxFiles, now: now}
	if l.maxBytes <= 0 {
		l.maxBytes = DefaultMaxBytes
	}
	if l.maxFiles < 2 {
		l.maxFiles = DefaultMaxFiles
	}
	return l, l.open()
}

func (l *file) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	l.f, l.size = f, info.Size()
	return nil
}

// appendRecord adds one record in the CRI format: time, stream, F (full) or P (partial), text.
func appendRecord(buf []byte, now time.Time, stream string, text []byte, partial bool) []byte {
	buf = now.AppendFormat(buf, timeFormat)
	buf = append(buf, ' ')
	buf = append(buf, stream...)
	if partial {
		buf = append(buf, " P "...)
	} else {
		buf = append(buf, " F "...)
	}
	buf = append(buf, text...)
	return append(buf, '\n')
}

// write appends records. They go out in one system call, so a reader never sees half a record of a batch.
func (l *file) write(stream string, lines []line) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.buf = l.buf[:0]
	for _, ln := range lines {
		l.buf = appendRecord(l.buf, now, stream, ln.text, ln.partial)
	}
	if l.f == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(l.buf)
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("write log %s: %w", l.path, err)
	}
	if l.size >= l.maxBytes {
		return l.rotate(now)
	}
	return nil
}

// rotate renames the file and opens a fresh one. Readers that follow notice the new file.
func (l *file) rotate(now time.Time) error {
	err := l.f.Close()
	l.f = nil
	rotated := l.path + "." + now.UTC().Format("20060102-150405.000000000")
	if rerr := os.Rename(l.path, rotated); rerr != nil {
		return errors.Join(err, fmt.Errorf("rotate log: %w", rerr))
	}
	return errors.Join(err, l.open(), l.prune())
}

func (l *file) prune() error {
	old, err := filepath.Glob(l.path + ".*")
	if err != nil {
		return err
	}
	sort.Strings(old)
	for len(old) > l.maxFiles-1 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old log: %w", err)
		}
		old = old[1:]
	}
	return nil
}

func (l *file) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

type line struct {
	text    []byte
	partial bool
}

// splitter cuts a stream of bytes into records.
type splitter struct{ rest []byte }

// feed adds data and returns the records that it completes. They are valid until the next call.
func (s *splitter) feed(data []byte) []line {
	s.rest = append(s.rest, data...)
	var out []line
	at := 0
	for {
		i := bytes.IndexByte(s.rest[at:], '\n')
		switch {
		case i >= 0 && i <= maxLine:
			out = append(out, line{text: s.rest[at : at+i]})
			at += i + 1
		case len(s.rest)-at > maxLine:
			out = append(out, line{text: s.rest[at : at+maxLine], partial: true})
			at += maxLine
		default:
			if at > 0 {
				tail := s.rest[at:]
				s.rest = append(make([]byte, 0, len(tail)+4096), tail...)
			}
			return out
		}
	}
}

// flush returns what the stream ended with when that was no newline.
func (s *splitter) flush() []line {
	if len(s.rest) == 0 {
		return nil
	}
	out := []line{{text: s.rest, partial: true}}
	s.rest = nil
	return out
}
