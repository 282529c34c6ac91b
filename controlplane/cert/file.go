// SPDX-License-Identifier: Apache-2.0

package cert

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFile replaces file in one step: readers see the old content or the new one, also after a crash.
func writeFile(file string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", file, err)
			_ = os.Remove(f.Name())
		}
	}()
	// CreateTemp made it 0600, so a key is never readable by others on the way.
	_, writeErr := f.Write(data)
	if err := errors.Join(writeErr, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
