// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// mergeKubeconfig adds the cluster's context to the user's kubeconfig and makes it the current one.
func (c Cluster) mergeKubeconfig() (file string, err error) {
	own, err := clientcmd.LoadFromFile(c.Kubeconfig())
	if err != nil {
		return "", fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	if err := api.FlattenConfig(own); err != nil { // files named in it become part of it
		return "", err
	}
	context, cluster, user, err := currentEntries(own)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.Kubeconfig(), err)
	}
	options := clientcmd.NewDefaultPathOptions()
	config, err := options.GetStartingConfig()
	if err != nil {
		return "", fmt.Errorf("read your kubeconfig: %w", err)
	}
	name := c.ContextName()
	// Entries are written back to the file they say they come from, which must be one of the user's.
	cluster.LocationOfOrigin, user.LocationOfOrigin, context.LocationOfOrigin = "", "", ""
	if old := config.Clusters[name]; old != nil {
		cluster.LocationOfOrigin = old.LocationOfOrigin
	}
	if old := config.AuthInfos[name]; old != nil {
		user.LocationOfOrigin = old.LocationOfOrigin
	}
	if old := config.Contexts[name]; old != nil {
		context.LocationOfOrigin = old.LocationOfOrigin
	}
	config.Clusters[name], config.AuthInfos[name] = cluster, user
	context.Cluster, context.AuthInfo = name, name
	config.Contexts[name] = context
	config.CurrentContext = name
	if err := clientcmd.ModifyConfig(options, *config, false); err != nil {
		return "", fmt.Errorf("write your kubeconfig: %w", err)
	}
	return options.GetDefaultFilename(), nil
}

// unmergeKubeconfig takes the cluster's entries out again. It leaves a file that has none of them untouched.
func (c Cluster) unmergeKubeconfig() error {
	options := clientcmd.NewDefaultPathOptions()
	config, err := options.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read your kubeconfig: %w", err)
	}
	name := c.ContextName()
	_, cluster := config.Clusters[name]
	_, user := config.AuthInfos[name]
	_, context := config.Contexts[name]
	if !cluster && !user && !context {
		return nil
	}
	delete(config.Clusters, name)
	delete(config.AuthInfos, name)
	delete(config.Contexts, name)
	if config.CurrentContext == name {
		config.CurrentContext = ""
	}
	if err := clientcmd.ModifyConfig(options, *config, false); err != nil {
		return fmt.Errorf("write your kubeconfig: %w", err)
	}
	return nil
}

func currentEntries(config *api.Config) (*api.Context, *api.Cluster, *api.AuthInfo, error) {
	context, ok := config.Contexts[config.CurrentContext]
	if !ok {
		return nil, nil, nil, fmt.Errorf("current context %q is not defined", config.CurrentContext)
	}
	cluster, user := config.Clusters[context.Cluster], config.AuthInfos[context.AuthInfo]
	if cluster == nil || user == nil {
		return nil, nil, nil, fmt.Errorf("context %q names an unknown cluster or user", config.CurrentContext)
	}
	return context, cluster, user, nil
}
