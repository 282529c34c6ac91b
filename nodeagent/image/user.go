// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/moby/sys/user"
)

// readInRoot reads a file below root without following a link out of it.
func readInRoot(root, name string) ([]byte, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := r.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// Account is a resolved user of an image.
type Account struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// ResolveUser finds what spec ("", "user", "uid", "user:group", "uid:gid") means in an image with these account files.
func ResolveUser(spec string, passwd, group []byte) (Account, error) {
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return Account{}, fmt.Errorf("find user %q in the image: %w", strings.TrimSpace(spec), err)
	}
	a := Account{UID: uint32(u.Uid), GID: uint32(u.Gid), Home: u.Home}
	for _, g := range u.Sgids {
		a.Groups = append(a.Groups, uint32(g))
	}
	return a, nil
}
