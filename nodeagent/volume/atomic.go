// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is one file of a volume that the agent fills.
type File struct {
	Data []byte
	Mode fs.FileMode
	// UID, when set, owns the file (a token that a non-root container must read).
	UID *int64
}

const dataLink = "..data"

// WriteAtomic makes dir show exactly files. A reader sees all of the old or all of the new ones: the files live in a directory
// of their own, ..data is a link to it that is replaced by one rename, and each visible name is a link through ..data. This is the layout that
// programs which watch mounted configuration rely on.
func WriteAtomic(dir string, files map[string]File) error {
	for name := range files {
		if !filepath.IsLocal(name) || strings.HasPrefix(name, "..") {
			return fmt.Errorf("invalid file name %q in volume", name)
		}
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read volume: %w", err)
	}
	if old != "" && sameFiles(filepath.Join(dir, old), files) {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, "..v_")
	if err != nil {
		return fmt.Errorf("write volume: %w", err)
	}
	if err := fill(fresh, files); err != nil {
		return errors.Join(fmt.Errorf("write volume: %w", err), os.RemoveAll(fresh))
	}
	if err := swapLink(dir, filepath.Base(fresh)); err != nil {
		return errors.Join(fmt.Errorf("switch volume: %w", err), os.RemoveAll(fresh))
	}
	if err := linkNames(dir, files); err != nil {
		return fmt.Errorf("write volume: %w", err)
	}
	if old != "" && strings.HasPrefix(old, "..v_") {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

func fill(dir string, files map[string]File) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			return err
		}
		// The process's umask must not decide.
		if err := os.Chmod(path, f.Mode); err != nil {
			return err
		}
		if f.UID != nil {
			if err := os.Chown(path, int(*f.UID), -1); err != nil {
				return err
			}
		}
	}
	return nil
}

func swapLink(dir, target string) error {
	tmp := filepath.Join(dir, "..data_tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, dataLink))
}

// linkNames makes the visible names agree with files: one link for each first path element.
func linkNames(dir string, files map[string]File) error {
	want := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		want[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if want[e.Name()] {
			delete(want, e.Name())
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for name := range want {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// sameFiles says that dir holds exactly files.
func sameFiles(dir string, files map[string]File) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		info, serr := d.Info()
		if !ok || serr != nil || info.Mode().Perm() != want.Mode.Perm() {
			return fs.ErrInvalid
		}
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, want.Data) {
			return fs.ErrInvalid
		}
		seen++
		return nil
	})
	return err == nil && seen == len(files)
}
