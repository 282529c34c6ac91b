// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath/bpfobj"
)

// LayoutVersion is part of every pin's name. It changes when a key or value in bpf/skep/types.h changes its meaning, so that an
// old agent and a new one never misread each other's maps.
const LayoutVersion = 4

// ErrLayout is returned when the pins are those of another version of skep. What is pinned stays in force untouched.
var ErrLayout = errors.New("made by another version of skep with other maps: run that version, or stop the node's pods and remove the directory")

func (o *Objects) loadMaps(options Options) (map[string]*ebpf.Map, error) {
	spec, err := bpfobj.LoadSkep()
	if err != nil {
		return nil, fmt.Errorf("read the map layout: %w", err)
	}
	if options.PinDir != "" {
		if err := EnsureBPFFS(options.PinDir); err != nil {
			return nil, err
		}
		if err := refuseOtherLayouts(options.PinDir); err != nil {
			return nil, err
		}
	}
	loaded := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue
		}
		if entries, ok := options.MaxEntries[name]; ok {
			m.MaxEntries = entries
		}
		m.Contents = nil
		made, err := adoptOrMake(m, options.PinDir)
		if err != nil {
			return nil, err
		}
		o.owned = append(o.owned, made)
		loaded[name] = made
	}
	if err := loaded[flowTables].Put(uint32(0), loaded[firstTable]); err != nil {
		return nil, fmt.Errorf("enter the connection table: %w", err)
	}
	return loaded, nil
}

// refuseOtherLayouts looks for pinned maps of another version: maps made beside them would start empty, flows included.
func refuseOtherLayouts(pinDir string) error {
	pins, err := os.ReadDir(pinDir)
	if err != nil {
		return fmt.Errorf("list the pins: %w", err)
	}
	for _, pin := range pins {
		mark := strings.LastIndex(pin.Name(), versionMark)
		if mark >= 0 && pin.Name()[mark:] != versionMark+strconv.Itoa(LayoutVersion) {
			return fmt.Errorf("%s: %w", filepath.Join(pinDir, pin.Name()), ErrLayout)
		}
	}
	return nil
}

// versionMark is what a map's pin has between the map's name and the layout version.
const versionMark = "_v"

// adoptOrMake takes a pinned map as it is, or makes and pins a new one. A pinned map of another size is kept: its content is
// worth more than the wish.
func adoptOrMake(spec *ebpf.MapSpec, pinDir string) (*ebpf.Map, error) {
	if pinDir == "" {
		return create(spec)
	}
	path := filepath.Join(pinDir, fmt.Sprint(spec.Name, versionMark, LayoutVersion))
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	switch {
	case err == nil:
		return pinned, matches(pinned, spec, path)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("open pinned map %s: %w", path, err)
	}
	made, err := create(spec)
	if err != nil {
		return nil, err
	}
	if err := made.Pin(path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin map %s: %w", path, err), made.Close())
	}
	return made, nil
}

func matches(pinned *ebpf.Map, spec *ebpf.MapSpec, path string) error {
	valueSize := spec.ValueSize
	if spec.Type == ebpf.ArrayOfMaps {
		valueSize = 4 // of an inner map's number; the specification leaves it open
	}
	if pinned.Type() == spec.Type && pinned.KeySize() == spec.KeySize && pinned.ValueSize() == valueSize {
		return nil
	}
	return errors.Join(fmt.Errorf("%s: %w", path, ErrLayout), pinned.Close())
}

func create(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	made, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make map %s: %w", spec.Name, err)
	}
	return made, nil
}
