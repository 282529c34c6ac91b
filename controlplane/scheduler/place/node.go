// SPDX-License-Identifier: Apache-2.0

package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// unschedulable refuses cordoned nodes, unless the pod tolerates the taint that stands for it.
func unschedulable(_ *Snapshot, p *Pod) check {
	taint := &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if tolerates(p.API.Spec.Tolerations, taint) {
		return nil
	}
	why := []string{"node(s) were unschedulable"}
	return func(_ int, n *Node) []string {
		if n.cordoned {
			return why
		}
		return nil
	}
}

// nodeName keeps a pod to the node that its spec names.
func nodeName(_ *Snapshot, p *Pod) check {
	if p.API.Spec.NodeName == "" {
		return nil
	}
	why := []string{"node(s) didn't match the requested node name"}
	return func(_ int, n *Node) []string {
		if n.API.Name != p.API.Spec.NodeName {
			return why
		}
		return nil
	}
}

// taints refuses nodes with a taint that keeps the pod away.
func taints(_ *Snapshot, p *Pod) check {
	return func(_ int, n *Node) []string {
		for i := range n.taints {
			t := &n.taints[i]
			if t.Effect == corev1.TaintEffectPreferNoSchedule || tolerates(p.API.Spec.Tolerations, t) {
				continue
			}
			return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
		}
		return nil
	}
}

func tolerates(tolerations []corev1.Toleration, t *corev1.Taint) bool {
	for i := range tolerations {
		if tolerations[i].ToleratesTaint(klog.Logger{}, t, false) {
			return true
		}
	}
	return false
}

// nodeAffinity keeps to spec.nodeSelector and required node affinity.
func nodeAffinity(_ *Snapshot, p *Pod) check {
	a := p.API.Spec.Affinity
	if len(p.API.Spec.NodeSelector) == 0 && (a == nil || a.NodeAffinity == nil) {
		return nil
	}
	why := []string{"node(s) didn't match Pod's node affinity/selector"}
	return func(_ int, n *Node) []string {
		// An unreadable term matches nothing; the API refuses it anyway.
		if ok, err := p.required.Match(n.API); !ok || err != nil {
			return why
		}
		return nil
	}
}

// hostPorts refuses nodes on which a port that the pod asks for is taken.
func hostPorts(_ *Snapshot, p *Pod) check {
	if len(p.Ports) == 0 {
		return nil
	}
	why := []string{"node(s) didn't have free ports for the requested pod ports"}
	return func(_ int, n *Node) []string {
		for taken := range n.ports {
			for _, wanted := range p.Ports {
				if wanted.collides(taken) {
					return why
				}
			}
		}
		return nil
	}
}

const everyAddress = "0.0.0.0"

func (w Port) collides(t Port) bool {
	return w.Port == t.Port && w.Protocol == t.Protocol && (w.IP == t.IP || w.IP == everyAddress || t.IP == everyAddress)
}

// ports lists the host ports of a pod's containers, sidecars included.
func ports(pod *corev1.Pod) []Port {
	var out []Port
	add := func(c *corev1.Container) {
		for _, cp := range c.Ports {
			if cp.HostPort <= 0 {
				continue
			}
			port := Port{Protocol: cp.Protocol, IP: cp.HostIP, Port: cp.HostPort}
			if port.Protocol == "" {
				port.Protocol = corev1.ProtocolTCP
			}
			if port.IP == "" || port.IP == "::" {
				port.IP = everyAddress
			}
			out = append(out, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// taintPreference prefers nodes with fewer taints of effect PreferNoSchedule that the pod does not tolerate.
type taintPreference struct{}

func (taintPreference) score(_ *Snapshot, p *Pod, nodes []*Node, out []int64) {
	for i, n := range nodes {
		for j := range n.taints {
			t := &n.taints[j]
			if t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(p.API.Spec.Tolerations, t) {
				out[i]++
			}
		}
	}
	normalize(out, true)
}

// nodePreference adds up the weights of the preferred node affinity terms that a node matches.
type nodePreference struct{}

func (nodePreference) score(_ *Snapshot, p *Pod, nodes []*Node, out []int64) {
	if p.preferred == nil {
		return
	}
	for i, n := range nodes {
		out[i] = p.preferred.Score(n.API)
	}
	normalize(out, false)
}
