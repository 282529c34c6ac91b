// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// indexes are the files of which one is in every archive: docker's and that of an OCI layout.
var indexes = map[string]bool{"manifest.json": true, "index.json": true}

var gzipMagic = []byte{0x1f, 0x8b}

// check reads an archive from end to end, so that a file that cannot be loaded is refused before anything is.
func check(file string) error {
	err := checkArchive(file)
	var missing *fs.PathError
	if err == nil || errors.As(err, &missing) {
		return err
	}
	return fmt.Errorf("%s: %w; load takes docker archives (docker save) and OCI layouts", file, err)
}

func checkArchive(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.IsDir() {
		return checkFolder(file)
	}
	head := make([]byte, len(gzipMagic))
	if n, _ := f.ReadAt(head, 0); bytes.Equal(head[:n], gzipMagic) {
		return errors.New("is compressed: unpack it with gunzip first")
	}
	return checkTar(f)
}

func checkFolder(dir string) error {
	for name := range indexes {
		if _, err := os.Stat(path.Join(dir, name)); err == nil {
			return nil
		}
	}
	return errors.New("is a folder without index.json")
}

func checkTar(r io.Reader) error {
	found := false
	archive := tar.NewReader(r)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && found:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("is a tar file without an image")
		case err != nil && entries == 0:
			return errors.New("is no tar file")
		case err != nil:
			return fmt.Errorf("is damaged after %d entries: %w", entries, err)
		}
		found = found || indexes[path.Clean(header.Name)]
		if _, err := io.Copy(io.Discard, archive); err != nil {
			return fmt.Errorf("is damaged in %s: %w", header.Name, err)
		}
	}
}
