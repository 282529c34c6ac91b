// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func archive(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	content := bytes.Repeat([]byte("x"), 5000)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	docker := archive(t, "layer.tar", "manifest.json")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(docker); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "layout"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"docker.tar": docker, "oci.tar": archive(t, "./index.json", "blobs/sha256/1"), "layout/index.json": []byte("{}"),
		"text": []byte("hello\n"), "empty": nil, "other.tar": archive(t, "etc/passwd"), "docker.tar.gz": packed.Bytes(),
		"short.tar": docker[:3000], "cut.tar": docker[:len(docker)-6000],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ file, want string }{
		{"docker.tar", ""},
		{"oci.tar", ""},
		{"layout", ""},
		{"missing.tar", "no such file"},
		{"text", "is no tar file; load takes docker archives"},
		{"empty", "is a tar file without an image"},
		{"other.tar", "is a tar file without an image"},
		{"docker.tar.gz", "gunzip"},
		{"short.tar", "is damaged in layer.tar"},
		{"cut.tar", "is damaged"},
		{".", "is a folder without index.json"},
	} {
		t.Run(c.file, func(t *testing.T) {
			err := check(filepath.Join(dir, c.file))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
