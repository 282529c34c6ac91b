// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
)

// groupPriority orders groups in discovery, which is how clients choose between resources of the same name. The
// numbers are those of Kubernetes, so that a client finds the order it knows.
var groupPriority = map[string]int32{
	"":                             18000,
	"apps":                         17800,
	"events.k8s.io":                17750,
	"authentication.k8s.io":        17700,
	"authorization.k8s.io":         17600,
	"autoscaling":                  17500,
	"batch":                        17400,
	"certificates.k8s.io":          17300,
	"networking.k8s.io":            17200,
	"policy":                       17100,
	"rbac.authorization.k8s.io":    17000,
	"storage.k8s.io":               16800,
	"apiextensions.k8s.io":         16700,
	"admissionregistration.k8s.io": 16700,
	"scheduling.k8s.io":            16600,
	"coordination.k8s.io":          16500,
	"node.k8s.io":                  16300,
	"discovery.k8s.io":             16200,
	"flowcontrol.apiserver.k8s.io": 16100,
}

const (
	otherGroupPriority  = 15000
	versionPriority     = 15
	customGroupPriority = 1000
	customVersion       = 100
	registerWorkers     = 5
)

// registration is the part of the library's auto-registration controller that we use; the type has no exported name.
type registration interface {
	autoregister.AutoAPIServiceRegistration
	Run(workers int, stop <-chan struct{})
}

// registerAPIServices keeps an APIService for every group-version that this process serves: those of built-in
// kinds from the start, those of CRDs as they come and go.
func (s *Server) registerAPIServices(server *aggregatorapiserver.APIAggregator, extensions *apiextensions.CustomResourceDefinitions) error {
	client, err := aggregatorclient.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("make the APIService client: %w", err)
	}
	services := server.APIRegistrationInformers.Apiregistration().V1().APIServices()
	var controller registration = autoregister.NewAutoRegisterController(services, client.ApiregistrationV1())
	for gv := range s.registrar.storage {
		controller.AddAPIServiceToSyncOnStart(localAPIService(gv))
	}
	controller.AddAPIServiceToSyncOnStart(localAPIService(apiextensionsv1.SchemeGroupVersion))
	crds := extensions.Informers.Apiextensions().V1().CustomResourceDefinitions()
	if err := followCRDs(crds.Informer(), crds.Lister(), controller); err != nil {
		return err
	}
	return server.GenericAPIServer.AddPostStartHook("kube-apiserver-autoregistration", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			// Without the CRDs known, their APIServices would look like leftovers and be removed.
			if cache.WaitForCacheSync(hook.Done(), crds.Informer().HasSynced) {
				controller.Run(registerWorkers, hook.Done())
			}
		}()
		return nil
	})
}

func localAPIService(gv schema.GroupVersion) *apiregistrationv1.APIService {
	priority, ok := groupPriority[gv.Group]
	if !ok {
		priority = otherGroupPriority
	}
	return newAPIService(gv, priority, versionPriority)
}

func newAPIService(gv schema.GroupVersion, group, version int32) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version,
		},
	}
}

func followCRDs(informer cache.SharedIndexInformer, lister crdlisters.CustomResourceDefinitionLister, to registration) error {
	sync := func(obj any) {
		if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = tombstone.Obj
		}
		if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
			for _, v := range crd.Spec.Versions {
				syncCustomVersion(schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}, lister, to)
			}
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    sync,
		UpdateFunc: func(old, obj any) { sync(old); sync(obj) },
		DeleteFunc: sync,
	})
	if err != nil {
		return fmt.Errorf("follow CRDs: %w", err)
	}
	return nil
}

// syncCustomVersion wants an APIService as long as any CRD serves the group-version.
func syncCustomVersion(gv schema.GroupVersion, lister crdlisters.CustomResourceDefinitionLister, to registration) {
	// A lister reads memory and cannot fail.
	crds, _ := lister.List(labels.Everything())
	for _, crd := range crds {
		if crd.Spec.Group != gv.Group {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Name == gv.Version && v.Served {
				to.AddAPIServiceToSync(newAPIService(gv, customGroupPriority, customVersion))
				return
			}
		}
	}
	to.RemoveAPIServiceToSync(gv.Version + "." + gv.Group)
}
