// SPDX-License-Identifier: Apache-2.0

// Package checkpoint keeps the agent's own facts on disk: versioned, one file per pod, replaced atomically.
//
// Only what nobody else remembers is kept: how ended containers ended and how often they were restarted. Running
// containers are containerd's to remember, specs and conditions the API's.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Version is the format that this binary writes. It reads this one and the one before it.
const Version = 1

type envelope struct {
	Version int             `json:"version"`
	Data    json.RawMessage `json:"data"`
}

// Store is a directory of checkpoints. Calls for different keys may run at the same time.
type Store struct{ dir string }

// New returns the store in dir, which it makes.
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make checkpoint directory: %w", err)
	}
	return &Store{dir: dir}, nil
}

func (s *Store) path(key string) string { return filepath.Join(s.dir, key+".json") }

// Save replaces what is kept under key. It returns when the data would survive a power cut.
func (s *Store) Save(key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode checkpoint %s: %w", key, err)
	}
	out, err := json.Marshal(envelope{Version: Version, Data: data})
	if err != nil {
		return fmt.Errorf("encode checkpoint %s: %w", key, err)
	}
	return write(s.path(key), out, true)
}

// Load reads what is kept under key into v. Absence is (false, nil).
func (s *Store) Load(key string, v any) (bool, error) {
	raw, err := os.ReadFile(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read checkpoint: %w", err)
	}
	var env envelope
	if err := json.Unmarshal(raw, &env); err != nil {
		return false, fmt.Errorf("read checkpoint %s: %w", key, err)
	}
	if env.Version != Version {
		return false, fmt.Errorf("checkpoint %s has version %d, this binary reads %d", key, env.Version, Version)
	}
	if err := json.Unmarshal(env.Data, v); err != nil {
		return false, fmt.Errorf("read checkpoint %s: %w", key, err)
	}
	return true, nil
}

// Delete forgets key. Absence is not an error.
func (s *Store) Delete(key string) error {
	if err := os.Remove(s.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete checkpoint: %w", err)
	}
	return nil
}

// Keys lists what is kept.
func (s *Store) Keys() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var keys []string
	for _, e := range entries {
		if key, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(key, ".") {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// WriteVolatile replaces a file atomically for other processes, without waiting for the disk.
func WriteVolatile(path string, data []byte) error { return write(path, data, false) }

func write(path string, data []byte, durable bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil && durable {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
