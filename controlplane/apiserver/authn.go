// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/x509"
	"fmt"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	authorizerunion "k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"skep.dev/skep/controlplane/cert"
	"skep.dev/skep/controlplane/rbac"
)

// publicPaths may be read by anybody, also without credentials: probes and the version.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}

// headers of the front proxy, by which the aggregator tells who the user is.
var (
	userHeaders  = headerrequest.StaticStringSlice{"X-Remote-User"}
	uidHeaders   = headerrequest.StaticStringSlice{"X-Remote-Uid"}
	groupHeaders = headerrequest.StaticStringSlice{"X-Remote-Group"}
	extraHeaders = headerrequest.StaticStringSlice{"X-Remote-Extra-"}
)

// applyAuthentication accepts, in this order: the headers of the front proxy, client certificates of the
// cluster's CA, bearer tokens, and nobody in particular for the public paths.
func applyAuthentication(config *genericapiserver.Config, authority *cert.Authority, tokens authenticator.Token,
	audiences authenticator.Audiences) error {
	ca, err := dynamiccertificates.NewStaticCAContent("cluster-ca", authority.CA())
	if err != nil {
		return fmt.Errorf("read the cluster CA: %w", err)
	}
	allowed := headerrequest.StaticStringSlice{cert.FrontProxyName}
	verify := func() (x509.VerifyOptions, bool) { return ca.VerifyOptions() }
	proxy := headerrequest.NewDynamicVerifyOptionsSecure(verify, allowed, userHeaders, uidHeaders, groupHeaders, extraHeaders)
	chain := []authenticator.Request{
		withHeader(userHeaders[0], proxy),
		verifiedOnce(x509request.NewDynamic(verify, x509request.CommonNameUserConversion)),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens),
	}
	var open []apiserver.AnonymousAuthCondition
	for _, p := range publicPaths {
		open = append(open, apiserver.AnonymousAuthCondition{Path: p})
	}
	// Anonymous comes last and only after the others had no opinion: a bad token is an error, not a nobody.
	config.Authentication = genericapiserver.AuthenticationInfo{
		APIAudiences: audiences,
		Authenticator: union.NewFailOnError(
			group.NewAuthenticatedGroupAdder(union.New(chain...)),
			anonymous.NewAuthenticator(open),
		),
		RequestHeaderConfig: &authenticatorfactory.RequestHeaderConfig{
			UsernameHeaders: userHeaders, UIDHeaders: uidHeaders, GroupHeaders: groupHeaders,
			ExtraHeaderPrefixes: extraHeaders, CAContentProvider: ca, AllowedClientNames: allowed,
		},
	}
	config.SecureServing.ClientCA = ca
	return nil
}

// applyAuthorization lets system:masters do everything, everybody read the public paths, and asks RBAC for the rest.
// Without RBAC, nil, nobody else may do anything.
func applyAuthorization(config *genericapiserver.Config, next *rbac.Authorizer) error {
	public, err := path.NewAuthorizer(publicPaths)
	if err != nil {
		return fmt.Errorf("authorize public paths: %w", err)
	}
	chain := []authorizerunion.NamedAuthorizer{
		{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		{AuthorizerName: "public", Authorizer: public},
	}
	resolvers := []authorizer.RuleResolver{}
	if next != nil {
		chain = append(chain, authorizerunion.NamedAuthorizer{AuthorizerName: "RBAC", Authorizer: next})
		resolvers = append(resolvers, next)
	}
	all, err := authorizerunion.New(chain...)
	if err != nil {
		return fmt.Errorf("combine authorizers: %w", err)
	}
	config.Authorization.Authorizer = all
	config.RuleResolver = authorizerunion.NewRuleResolvers(resolvers...)
	return nil
}
