// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	v1 "k8s.io/api/core/v1"
)

// checkHostPath makes sure that a path of the node is what the pod says, or makes it where the type allows.
func checkHostPath(path string, t *v1.HostPathType) error {
	kind := v1.HostPathUnset
	if t != nil {
		kind = *t
	}
	switch kind {
	case v1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		return expect(path, "directory", fs.ModeDir)
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), expect(path, "file", 0))
	case v1.HostPathDirectory:
		return expect(path, "directory", fs.ModeDir)
	case v1.HostPathFile:
		return expect(path, "file", 0)
	case v1.HostPathSocket:
		return expect(path, "socket file", fs.ModeSocket)
	case v1.HostPathCharDev:
		return expect(path, "character device", fs.ModeDevice|fs.ModeCharDevice)
	case v1.HostPathBlockDev:
		return expect(path, "block device", fs.ModeDevice)
	}
	// Unset: whatever is there; a directory is made where nothing is, as a bind mount needs something.
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, 0o755)
	}
	return nil
}

func expect(path, what string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != mode {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
	}
	return nil
}
