// SPDX-License-Identifier: Apache-2.0

package footprint

import (
	"slices"
	"testing"
)

func TestCleanTakesOnlyWhatCanBeReadAgain(t *testing.T) {
	maps := `00400000-00401000 r-xp 00000000 fe:00 1   /bin/skep
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00401000-00402000 r--p 00001000 fe:00 1   /bin/skep
Anonymous:             0 kB
00402000-00403000 rw-p 00002000 fe:00 1   /bin/skep
Anonymous:             0 kB
00403000-00404000 r--p 00003000 fe:00 1   /bin/skep
Anonymous:             4 kB
00404000-00405000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f000000-7f001000 r--p 00000000 fe:00 2   /lib/other
Anonymous:             0 kB
7fff0000-7fff1000 r-xp 00000000 00:00 0   [vdso]
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x401000}, {0x401000, 0x402000}}
	if got := clean([]byte(maps), "/bin/skep"); !slices.Equal(got, want) {
		t.Errorf("got %x", got)
	}
}

func TestProgramGoesOnAfterTrim(t *testing.T) {
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if got := clean([]byte("1-2 r--p 0 0:0 1 x\nAnonymous: 0 kB\n"), "x"); len(got) != 1 {
		t.Error("code does not work any more")
	}
}
