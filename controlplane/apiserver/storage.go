// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"skep.dev/skep/controlplane/kinds"
)

const (
	storagePrefix = "/registry"
	// deleteCollectionWorkers speeds "delete everything in this namespace" up by more than twice over one worker.
	deleteCollectionWorkers = 16
)

// newEtcdOptions are the storage options that built-in kinds, CRDs and APIServices share.
func newEtcdOptions(endpoints []string) *options.EtcdOptions {
	o := options.NewEtcdOptions(storagebackend.NewDefaultConfig(storagePrefix, nil))
	o.StorageConfig.Transport.ServerList = endpoints
	o.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	o.DeleteCollectionWorkers = deleteCollectionWorkers
	return o
}

// applyStorage gives config the storage of the built-in kinds: protobuf, one folder per resource.
func applyStorage(config *genericapiserver.Config, etcd *options.EtcdOptions, t *types, list []kinds.Kind) error {
	encoding := serverstorage.NewDefaultResourceEncodingConfig(t.scheme)
	encoding.SetEffectiveVersion(config.EffectiveVersion)
	prefixes := map[schema.GroupResource]string{}
	for _, k := range list {
		prefixes[groupResource(k)] = k.StoragePrefix
		if k.View != nil {
			internal := schema.GroupVersion{Group: k.GroupVersionKind.Group, Version: runtime.APIVersionInternal}
			encoding.SetResourceEncoding(groupResource(k), k.View.Of.GroupVersion(), internal)
		}
		if unwatched[groupResource(k)] {
			etcd.WatchCacheSizes = append(etcd.WatchCacheSizes, groupResource(k).String()+"#0")
		}
	}
	storageConfig := etcd.StorageConfig
	storageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
	factory := serverstorage.NewDefaultStorageFactory(storageConfig, etcd.DefaultStorageMediaType, t.codecs, encoding,
		resourceConfig(list), prefixes)
	if err := etcd.ApplyWithStorageFactoryTo(factory, config); err != nil {
		return fmt.Errorf("configure storage: %w", err)
	}
	return nil
}

// foreignStorage is the storage of a server in the chain that brings its own scheme.
func foreignStorage(config *genericapiserver.Config, etcd *options.EtcdOptions, codec runtime.Codec) generic.RESTOptionsGetter {
	o := *etcd
	o.StorageConfig.Codec = codec
	o.StorageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
	o.WatchCacheSizes = nil
	return o.CreateRESTOptionsGetter(&options.SimpleStorageFactory{StorageConfig: o.StorageConfig}, config.ResourceTransformers)
}

// resourceConfig lists the group-versions that are served.
func resourceConfig(list []kinds.Kind) *serverstorage.ResourceConfig {
	c := serverstorage.NewResourceConfig()
	for _, k := range list {
		c.EnableVersions(k.GroupVersionKind.GroupVersion())
	}
	c.EnableVersions(
		schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"},
		schema.GroupVersion{Group: "apiregistration.k8s.io", Version: "v1"},
	)
	return c
}
