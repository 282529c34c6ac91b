// SPDX-License-Identifier: Apache-2.0

package podlog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name string
		in   []string
		want string
	}{
		{"whole lines", []string{"a\nb\n"}, "a|b|"},
		{"a line in pieces", []string{"he", "ll", "o\nw"}, "hello|w+"},
		{"empty lines", []string{"\n\n"}, "||"},
		{"a line of the greatest length", []string{long + "\n"}, long + "|"},
		{"a longer line is cut", []string{long + "yz\n"}, long + "+yz|"},
	} {
		var s splitter
		var got strings.Builder
		emit := func(lines []line) {
			for _, l := range lines {
				got.Write(l.text)
				if l.partial {
					got.WriteByte('+')
				} else {
					got.WriteByte('|')
				}
			}
		}
		for _, part := range c.in {
			emit(s.feed([]byte(part)))
		}
		emit(s.flush())
		if got.String() != c.want {
			t.Errorf("%s: %.60q, want %.60q", c.name, got.String(), c.want)
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c", "0.log")
	clock := time.Unix(0, 0)
	l, err := openFile(Stream{Path: path, MaxBytes: 200, MaxFiles: 3}, func() time.Time { clock = clock.Add(time.Second); return clock })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := l.write("stdout", []line{{text: fmt.Appendf(nil, "line %d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	all, _ := filepath.Glob(path + "*")
	if len(all) != 3 {
		t.Errorf("files %v", all)
	}
	for _, f := range all {
		if info, err := os.Stat(f); err != nil || info.Size() > 300 {
			t.Errorf("%s: %v %v", f, info.Size(), err)
		}
	}
}
