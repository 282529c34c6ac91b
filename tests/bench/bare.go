// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	serveroptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"skep.dev/skep/controlplane/cert"
	"skep.dev/skep/controlplane/etcd"
)

// bareVariable makes this program serve the bare registry: "PORT DIR".
const bareVariable = "SKEP_BENCH_BARE"

// startBare runs what creates are compared with: the library's registry on the same store, with TLS and JSON, and nothing of a
// server's chain: no authentication by group and rule, fairness, admission, validation, field managers, audit or metrics.
func startBare(ctx context.Context) (*apiServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startServer(ctx, func(dir string, port int) *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", bareVariable, port, dir))
		return cmd
	})
}

// bare is the registry of each kind that is created, by resource.
type bare struct {
	codecs serializer.CodecFactory
	json   runtime.Encoder
	stores map[string]*registry.Store
}

func serveBare(arguments string) error {
	var port int
	var dir string
	if _, err := fmt.Sscan(arguments, &port, &dir); err != nil {
		return err
	}
	member, err := etcd.Start(context.Background(), etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer member.Close()
	b, err := newBare(member.Endpoint())
	if err != nil {
		return err
	}
	authority, err := cert.Open(filepath.Join(dir, "pki"))
	if err != nil {
		return err
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	serving, err := authority.Serving(nil, []netip.Addr{loopback})
	if err != nil {
		return err
	}
	admin, err := authority.Admin()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(loopback.String(), strconv.Itoa(port))
	if err := authority.WriteKubeconfig(filepath.Join(dir, "kubeconfig"), "bare", "admin", "https://"+address, admin); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/{resource}", b.create)
	mux.HandleFunc("POST /inside/{namespace}/{resource}", b.inside)
	return (&http.Server{Addr: address, Handler: mux}).ListenAndServeTLS(serving.CertFile, serving.KeyFile)
}

func newBare(endpoint string) (*bare, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	encoder := func(mediaType string) runtime.Encoder {
		info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
		return codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion)
	}
	codec := codecs.CodecForVersions(encoder(runtime.ContentTypeProtobuf), codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	etcdOptions := serveroptions.NewEtcdOptions(storagebackend.NewDefaultConfig("/registry", codec))
	etcdOptions.StorageConfig.Transport.ServerList = []string{endpoint}
	getter := etcdOptions.CreateRESTOptionsGetter(&serveroptions.SimpleStorageFactory{StorageConfig: etcdOptions.StorageConfig}, nil)
	b := &bare{codecs: codecs, json: encoder(runtime.ContentTypeJSON), stores: map[string]*registry.Store{}}
	for resource, kind := range map[string]struct{ object, list func() runtime.Object }{
		"configmaps": {func() runtime.Object { return &corev1.ConfigMap{} }, func() runtime.Object { return &corev1.ConfigMapList{} }},
		"pods":       {func() runtime.Object { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} }},
	} {
		gr := schema.GroupResource{Resource: resource}
		s := bareStrategy{scheme, names.SimpleNameGenerator}
		store := &registry.Store{
			NewFunc: kind.object, NewListFunc: kind.list, DefaultQualifiedResource: gr, SingularQualifiedResource: gr,
			CreateStrategy: s, DeleteStrategy: s, TableConvertor: rest.NewDefaultTableConvertor(gr),
		}
		if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: storage.DefaultNamespaceScopedAttr}); err != nil {
			return nil, err
		}
		b.stores[resource] = store
	}
	return b, nil
}

type bareStrategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

func (bareStrategy) NamespaceScoped() bool                                     { return true }
func (bareStrategy) PrepareForCreate(context.Context, runtime.Object)          {}
func (bareStrategy) Validate(context.Context, runtime.Object) field.ErrorList  { return nil }
func (bareStrategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }
func (bareStrategy) Canonicalize(runtime.Object)                               {}

func (b *bare) decode(r *http.Request) (runtime.Object, error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	object, _, err := b.codecs.UniversalDeserializer().Decode(raw, nil, nil)
	return object, err
}

func (b *bare) create(w http.ResponseWriter, r *http.Request) {
	object, err := b.decode(r)
	if err == nil {
		object, err = b.store(r.Context(), r, object)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(http.StatusCreated)
	_ = b.json.Encode(object, w) // the client sees an answer that is cut off
}

func (b *bare) store(ctx context.Context, r *http.Request, object runtime.Object) (runtime.Object, error) {
	ctx = request.WithNamespace(ctx, r.PathValue("namespace"))
	return b.stores[r.PathValue("resource")].Create(ctx, object, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
}

// inside creates copies of one object for as long as creates are measured, with as many workers as there would be clients but
// without HTTP, TLS and JSON, and answers with their number.
func (b *bare) inside(w http.ResponseWriter, r *http.Request) {
	object, err := b.decode(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	end := time.Now().Add(createFor)
	counts := make([]int, createClients)
	err = crowd(createClients, func(worker int) error {
		for time.Now().Before(end) {
			c := object.DeepCopyObject()
			m, ok := c.(metav1.Object)
			if !ok {
				return errors.New("not an object")
			}
			m.SetName(unique())
			if _, err := b.store(context.Background(), r, c); err != nil {
				return err
			}
			counts[worker]++
		}
		return nil
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	fmt.Fprint(w, sum)
}
