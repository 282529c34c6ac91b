// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skep.dev/skep/controlplane/cert"
)

const (
	defaultKubeletPort = 10250
	nodeDialTimeout    = 10 * time.Second
)

// nodeClient reaches the API of node agents. It shows the API server's client certificate, and believes only a
// serving certificate of the cluster's CA that names the address it dialled.
type nodeClient struct {
	objects   boundObjects
	transport *http.Transport
}

func newNodeClient(objects boundObjects, authority *cert.Authority) (*nodeClient, error) {
	pair, err := authority.KubeletClient()
	if err != nil {
		return nil, err
	}
	client, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load the certificate for calls to nodes: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.CA())
	dialer := &net.Dialer{Timeout: nodeDialTimeout}
	return &nodeClient{objects: objects, transport: &http.Transport{
		DialContext: dialer.DialContext,
		// HTTP/1.1 only: exec, attach and port-forward upgrade the connection.
		TLSClientConfig:     &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{client}, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: nodeDialTimeout,
		IdleConnTimeout:     90 * time.Second,
	}}, nil
}

// location is the URL of a path on the agent of the named node.
func (c *nodeClient) location(ctx context.Context, node, path string, query url.Values) (*url.URL, error) {
	n, err := c.objects.Node(ctx, node)
	if err != nil {
		return nil, err
	}
	host, err := nodeHost(n)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("node %s: %w", node, err))
	}
	port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = defaultKubeletPort
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port))), Path: path, RawQuery: query.Encode()}, nil
}

// hostPreference is the order in which a node's addresses are tried.
var hostPreference = []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeHostName}

var errNoAddress = errors.New("no address is known yet")

func nodeHost(n *corev1.Node) (string, error) {
	for _, want := range hostPreference {
		for _, a := range n.Status.Addresses {
			if a.Type == want && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", errNoAddress
}
