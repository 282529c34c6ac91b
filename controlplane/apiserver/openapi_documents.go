// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	restful "github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
)

const (
	openAPIv2Path = "/openapi/v2"
	openAPIv3Path = "/openapi/v3"
	// documentLife is how long a document outlives the last request for it. A client asks once and then remembers, so
	// requests come in bursts: a tool that starts, a manifest with several kinds.
	documentLife = 2 * time.Minute
)

// documents serves the OpenAPI of the built-in kinds. The library would build all documents before it serves and keep
// them; they are more than everything else in the memory of an idle server, and most are never read. So a document is
// made by the library's own handlers when it is asked for, and is let go afterwards.
type documents struct {
	routes *restful.Container
	v2     *common.Config
	v3     *common.OpenAPIV3Config

	// mu guards what follows. It is held while a document is made, so that many clients do not make it many times.
	mu sync.Mutex
	// made holds the handler of each document in use, by path.
	made map[string]*keptDocument
	// etags are those of all documents that have ever been made, by path and in quotes. They do not change.
	etags map[string]string
}

type keptDocument struct {
	http.Handler
	expiry *time.Timer
}

func newDocuments(routes *restful.Container, v2 *common.Config, v3 *common.OpenAPIV3Config) *documents {
	return &documents{routes: routes, v2: v2, v3: v3, made: map[string]*keptDocument{}, etags: map[string]string{}}
}

func (d *documents) install(m *mux.PathRecorderMux) {
	m.HandleFunc(openAPIv2Path, d.serveV2)
	m.HandleFunc(openAPIv3Path, d.serveIndex)
	m.HandlePrefix(openAPIv3Path+"/", http.HandlerFunc(d.serveGroupVersion))
}

// serveIndex lists the group-versions. Clients may keep a document for ever whose URL names its hash, and the hash is
// only known of documents that somebody asked for.
func (d *documents) serveIndex(w http.ResponseWriter, _ *http.Request) {
	index := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	d.mu.Lock()
	for _, service := range d.routes.RegisteredWebServices() {
		u := url.URL{Path: openAPIv3Path + service.RootPath()}
		if etag, ok := d.etags[u.Path]; ok {
			u.RawQuery = url.Values{"hash": {strings.Trim(etag, `"`)}}.Encode()
		}
		index.Paths[strings.TrimPrefix(service.RootPath(), "/")] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: u.String()}
	}
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	// An index of texts can be encoded, and a client that has gone away needs no answer.
	_ = json.NewEncoder(w).Encode(index)
}

func (d *documents) serveGroupVersion(w http.ResponseWriter, r *http.Request) {
	for _, service := range d.routes.RegisteredWebServices() {
		if r.URL.Path != openAPIv3Path+service.RootPath() {
			continue
		}
		d.serve(w, r, func(m *mux.PathRecorderMux) {
			routes.OpenAPI{V3Config: d.v3}.InstallV3(restful.NewContainer().Add(service), m)
		})
		return
	}
	http.NotFound(w, r)
}

// serveV2 is asked by the aggregator, which keeps what it gets and asks again, with its etag, each time it is asked.
func (d *documents) serveV2(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	etag := d.etags[openAPIv2Path]
	d.mu.Unlock()
	if etag != "" && r.Header.Get("If-None-Match") == etag {
		w.Header().Set("Etag", etag)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	d.serve(w, r, func(m *mux.PathRecorderMux) {
		routes.OpenAPI{Config: d.v2}.InstallV2(d.routes, m)
	})
}

// serve answers by the document of the request's path, which install makes if it is not there.
func (d *documents) serve(w http.ResponseWriter, r *http.Request, install func(*mux.PathRecorderMux)) {
	path := r.URL.Path
	d.mu.Lock()
	found, ok := d.made[path]
	if !ok {
		m := mux.NewPathRecorderMux(path)
		install(m)
		found = &keptDocument{Handler: m, expiry: time.AfterFunc(documentLife, func() { d.drop(path) })}
		d.made[path] = found
	}
	found.expiry.Reset(documentLife)
	d.mu.Unlock()
	found.ServeHTTP(w, r)
	d.remember(path, w.Header().Get("Etag"))
}

func (d *documents) drop(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.made, path)
}

func (d *documents) remember(path, etag string) {
	if etag == "" {
		return // an answer without a document, such as 406
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.etags[path] = etag
}
