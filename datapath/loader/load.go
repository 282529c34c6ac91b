// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"

	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// Names of maps and programs that are not handled like all others; they are those of bpf/.
const (
	flowTables = "skep_ct"
	firstTable = "skep_ct_first"

	// Programs by hook.
	ProgramFromPod = "skep_tc_pod_from"
	ProgramToPod   = "skep_tc_pod_to"
	ProgramUplink  = "skep_tc_host_in"
	ProgramExpire  = "skep_ct_expire"
	ProgramCheck   = "skep_tc_check"
	// Programs that change entries in place.
	ProgramWriteAddress  = "skep_write_address"
	ProgramWriteEndpoint = "skep_write_endpoint"
	ProgramWriteService  = "skep_write_service"
)

// SocketPrograms are the socket-level programs and where in a cgroup they go.
var SocketPrograms = map[string]ebpf.AttachType{
	"skep_connect4":  ebpf.AttachCGroupInet4Connect,
	"skep_connect6":  ebpf.AttachCGroupInet6Connect,
	"skep_sendmsg4":  ebpf.AttachCGroupUDP4Sendmsg,
	"skep_sendmsg6":  ebpf.AttachCGroupUDP6Sendmsg,
	"skep_recvmsg4":  ebpf.AttachCGroupUDP4Recvmsg,
	"skep_recvmsg6":  ebpf.AttachCGroupUDP6Recvmsg,
	"skep_peername4": ebpf.AttachCgroupInet4GetPeername,
	"skep_peername6": ebpf.AttachCgroupInet6GetPeername,
}

// Options say how to load.
type Options struct {
	// PinDir is a directory below a bpffs. Maps found there are adopted, new ones pinned. Empty: nothing outlives the process.
	PinDir string
	// MaxEntries overrides the sizes of maps that do not exist yet.
	MaxEntries map[string]uint32
	// ServiceCIDRs are where Service addresses lie, at most one prefix of each family. A family without one has every
	// unknown destination looked up.
	ServiceCIDRs []netip.Prefix
	// NoSetRetval does without bpf_set_retval even where the kernel has it.
	NoSetRetval bool
	// Bench loads the programs that are only measured as well.
	Bench bool
	// LogLevel of the verifier, for tests that read its statistics.
	LogLevel ebpf.LogLevel
}

// Objects are loaded programs and their maps.
type Objects struct {
	Maps     *bpfmap.Maps
	Programs map[string]*ebpf.Program

	owned []interface{ Close() error }
}

// Close releases descriptors. Pinned maps and attached programs live on.
func (o *Objects) Close() error {
	var errs []error
	for _, owned := range o.owned {
		errs = append(errs, owned.Close())
	}
	return errors.Join(errs...)
}

// Load makes or adopts the maps and loads every program.
func Load(options Options) (*Objects, error) {
	// Before 5.11 maps are charged to the memlock limit.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory: %w", err)
	}
	o := &Objects{Programs: map[string]*ebpf.Program{}}
	loaded, err := o.loadMaps(options)
	if err == nil {
		o.Maps, err = bpfmap.NewMaps(loaded)
	}
	if err == nil {
		err = o.loadPrograms(options, loaded)
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	o.Maps.ChangeAddress = bpfmap.AddressChanger(o.Programs[ProgramWriteAddress])
	o.Maps.ChangeEndpoint = bpfmap.EndpointChanger(o.Programs[ProgramWriteEndpoint])
	o.Maps.ChangeService = bpfmap.ServiceChanger(o.Programs[ProgramWriteService])
	return o, nil
}

// collections are the objects with programs.
var collections = map[string]func() (*ebpf.CollectionSpec, error){
	"tc_pod":      bpfobj.LoadPod,
	"tc_host":     bpfobj.LoadHost,
	"cgroup_sock": bpfobj.LoadSock,
	"ct_expire":   bpfobj.LoadExpire,
	"tc_check":    bpfobj.LoadCheck,
	"write":       bpfobj.LoadWrite,
}

func (o *Objects) loadPrograms(options Options, loaded map[string]*ebpf.Map) error {
	wanted := maps.Clone(collections)
	if options.Bench {
		wanted["bench"] = bpfobj.LoadBench
	}
	for name, load := range wanted {
		spec, err := load()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := configure(spec, options); err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
		collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
			MapReplacements: replacements(spec, loaded),
			Programs:        ebpf.ProgramOptions{LogLevel: options.LogLevel},
		})
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
		for program, p := range collection.Programs {
			o.Programs[program] = p
			o.owned = append(o.owned, p)
			delete(collection.Programs, program)
		}
		collection.Close()
	}
	return nil
}

// replacements makes the object use the maps that exist, whatever size they have.
func replacements(spec *ebpf.CollectionSpec, loaded map[string]*ebpf.Map) map[string]*ebpf.Map {
	out := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		existing, shared := loaded[name]
		if !shared {
			continue
		}
		m.MaxEntries = existing.MaxEntries()
		m.Contents = nil
		out[name] = existing
	}
	return out
}

func configure(spec *ebpf.CollectionSpec, options Options) error {
	values := map[string]any{}
	if !options.NoSetRetval && features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil {
		values["skep_has_set_retval"] = uint32(1)
	}
	if features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs) == nil {
		values["skep_has_coarse_clock"] = uint32(1)
	}
	for _, prefix := range options.ServiceCIDRs {
		maps.Copy(values, servicePrefix(prefix.Masked()))
	}
	for name, value := range values {
		variable, ok := spec.Variables[name]
		if !ok {
			continue // this object does not look at it
		}
		if err := variable.Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// servicePrefix is a prefix as bpf/skep/config.h wants it.
func servicePrefix(p netip.Prefix) map[string]any {
	words := func(a netip.Addr) (uint64, uint64) {
		w := bpfmap.AddrOf(a).W
		return uint64(w[1])<<32 | uint64(w[0]), uint64(w[3])<<32 | uint64(w[2])
	}
	hi, lo := words(p.Addr())
	if p.Addr().Is4() {
		_, mask := words(netip.AddrFrom16(maskBits(p.Bits() + 96)))
		return map[string]any{"skep_service4": [2]uint64{lo & mask, mask}}
	}
	maskHi, maskLo := words(netip.AddrFrom16(maskBits(p.Bits())))
	return map[string]any{"skep_service6": [4]uint64{hi, lo, maskHi, maskLo}}
}

func maskBits(n int) [16]byte {
	var mask [16]byte
	for i := range n {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}
