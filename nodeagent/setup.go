// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podnet"
	"skep.dev/skep/nodeagent/runtime"
	"skep.dev/skep/nodeagent/volume"
)

// begin starts the pod's set-up once, unless there is nothing to set up for.
func (w *worker) begin(ctx context.Context) {
	if w.setup != nil || w.tornDown || w.deleting() || w.pod.Status.Phase == v1.PodFailed || w.pod.Status.Phase == v1.PodSucceeded {
		return
	}
	if w.startTime.IsZero() {
		w.startTime = time.Now()
		if t := w.pod.Status.StartTime; t != nil {
			w.startTime = t.Time
		}
	}
	if reason, message := w.a.refuses(w.pod); reason != "" {
		w.rejected = [2]string{reason, message}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w.setup = cancel
	w.reserving = w.a.hasRanges()
	pod := w.pod
	w.jobs.Go(func() { w.setUpNetwork(ctx, pod) })
	w.jobs.Go(func() { w.setUpVolumes(ctx, pod) })
}

// refuses says why this node cannot run a pod, whatever its spec says otherwise.
func (a *agent) refuses(pod *v1.Pod) (reason, message string) {
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	return "", ""
}

// setUpNetwork makes namespaces and network, then waits until this node obeys the pod's policy and the others know the pod. Containers are created meanwhile: they need the
// namespaces, and no device in them before they start.
func (w *worker) setUpNetwork(ctx context.Context, pod *v1.Pod) {
	current := w.awaitCurrentPolicy(ctx, pod)
	var box podnet.Attachment
	if err := w.retryNetwork(ctx, pod, func() (err error) {
		box, err = w.a.reserve(ctx, pod)
		return err
	}); err != nil {
		w.post(func() { w.reserving = false })
		return
	}
	w.post(func() {
		w.addrs, w.netns, w.reserving = box.Addrs, box.NetNS, false
		close(w.sandboxReady)
	})
	known := w.awaitOthers(ctx, pod)
	if !pod.Spec.HostNetwork {
		if err := w.retryNetwork(ctx, pod, func() error {
			_, err := w.a.net.Attach(ctx, podNetName(pod))
			return err
		}); err != nil {
			return
		}
	}
	w.post(func() { w.sandbox = true })
	close(w.networkReady)
	if !pod.Spec.HostNetwork {
		if err := w.a.policy.WaitEnforced(ctx, string(pod.UID)); err != nil {
			return
		}
		if err := wait(ctx, current, known); err != nil || ctx.Err() != nil {
			return
		}
	}
	close(w.policyReady)
}

// policySlow is how long a pod waits for its policy before the user hears of it.
const policySlow = 10 * time.Second

// awaitCurrentPolicy closes what it returns once the node's policy is no older than the pod. That takes a call to the API, so it
// runs beside the making of the network.
func (w *worker) awaitCurrentPolicy(ctx context.Context, pod *v1.Pod) <-chan struct{} {
	current := make(chan struct{})
	if pod.Spec.HostNetwork {
		close(current)
		return current
	}
	w.jobs.Go(func() {
		begin, told := time.Now(), false
		if err := w.a.policy.WaitCurrent(ctx, pod, func(err error) {
			if told || time.Since(begin) < policySlow {
				return
			}
			told = true
			w.log.Warn("policy of the node is older than the pod, which waits for it", "err", err)
			w.a.event(pod, "", v1.EventTypeWarning, "NetworkNotReady", "network is not ready: network policy of this node is older than the pod: %v", err)
		}); err == nil {
			close(current)
		}
	})
	return current
}

// retryNetwork tries f until it works or ctx ends, and tells the user of failures.
func (w *worker) retryNetwork(ctx context.Context, pod *v1.Pod, f func() error) error {
	return retry(ctx, 200*time.Millisecond, 10*time.Second, f, func(err error) {
		w.post(func() { w.reserving = false })
		w.log.Warn("pod network not set up, will retry", "err", err)
		w.a.event(pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	})
}

func podNetName(pod *v1.Pod) podnet.Pod {
	return podnet.Pod{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name}
}

// reserve gives the pod its addresses, its namespaces and the files that name both.
func (a *agent) reserve(ctx context.Context, pod *v1.Pod) (podnet.Attachment, error) {
	att := podnet.Attachment{Addrs: a.cfg.NodeAddrs}
	if !pod.Spec.HostNetwork {
		select {
		case <-a.cidrReady:
		case <-ctx.Done():
			return att, ctx.Err()
		case <-time.After(10 * time.Second):
			return att, errors.New("this node has no pod CIDR yet: spec.podCIDRs of its Node object is empty")
		}
		var err error
		if att, err = a.net.Reserve(ctx, podNetName(pod)); err != nil {
			return att, err
		}
	}
	if err := a.sandboxOf(string(pod.UID)).make(hostname(pod, a.cfg.NodeName)); err != nil {
		return att, err
	}
	_, err := a.writeEtcFiles(pod, att.Addrs)
	return att, err
}

// setUpVolumes makes the pod's volumes and its control group.
func (w *worker) setUpVolumes(ctx context.Context, pod *v1.Pod) {
	err := retry(ctx, time.Second, time.Minute, func() error {
		if err := w.a.cgroups.SetPod(w.a.podCgroup(pod), podLimits(pod)); err != nil {
			return err
		}
		return w.a.volumes.SetUp(ctx, w.a.withAddrs(pod, nil))
	}, func(err error) { w.volumesFailed(pod, err) })
	if err != nil {
		return
	}
	close(w.volumesReady)
	w.post(func() { w.watchVolumes(ctx) })
}

func (w *worker) volumesFailed(pod *v1.Pod, err error) {
	var failed *volume.Error
	if errors.As(err, &failed) {
		w.a.event(pod, "", v1.EventTypeWarning, "FailedMount", "%v", err)
		return
	}
	w.log.Warn("pod not set up, will retry", "err", err)
	w.a.event(pod, "", v1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
}

// watchVolumes keeps the volumes' content current: on every change of an object, and when a token ages.
func (w *worker) watchVolumes(ctx context.Context) {
	if refs := volume.Refs(w.pod); len(refs) > 0 {
		w.a.objects.Watch(string(w.uid), refs, func() { w.post(func() { w.refreshVolumes(ctx) }) })
	}
	w.refreshVolumes(ctx)
}

// refreshVolumes rewrites changed content in the background and plans the next time.
func (w *worker) refreshVolumes(ctx context.Context) {
	if w.refreshing || w.tornDown || ctx.Err() != nil {
		return
	}
	w.refreshing = true
	pod := w.a.withAddrs(w.pod, w.addrs)
	w.jobs.Go(func() {
		next, err := w.a.volumes.Refresh(ctx, pod)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("volumes not refreshed, will retry", "err", err)
			next = time.Now().Add(time.Minute)
		}
		w.post(func() {
			w.refreshing = false
			if w.refresh != nil {
				w.refresh.Stop()
			}
			if !next.IsZero() {
				w.refresh = time.AfterFunc(time.Until(next), func() { w.post(func() { w.refreshVolumes(ctx) }) })
			}
		})
	})
}

// teardown removes what the pod has on the node. Its containers are not running any more.
func (w *worker) teardown(ctx context.Context) {
	if w.finishing {
		return
	}
	w.finishing = true
	w.cancelStarts()
	if w.refresh != nil {
		w.refresh.Stop()
	}
	pod, deleted := w.pod, w.deleting()
	w.jobs.Go(func() {
		err := retry(ctx, 100*time.Millisecond, 5*time.Second, func() error { return w.a.remove(ctx, string(pod.UID), deleted) }, func(err error) {
			w.log.Warn("pod not removed from the node, will retry", "err", err)
		})
		if err != nil {
			return
		}
		w.post(func() { w.tornDown, w.sandbox, w.finishing = true, false, false })
	})
}

// remove takes everything of a pod off the node: containers that are left, network, namespaces, volumes, control group.
func (a *agent) remove(ctx context.Context, uid string, deleted bool) error {
	if err := a.removeContainers(ctx, uid); err != nil {
		return err
	}
	a.objects.Unwatch(uid)
	errs := []error{a.net.Detach(ctx, uid), a.sandboxOf(uid).remove(), a.cgroups.Remove(filepath.Join(a.cfg.CgroupParent, "pod"+uid))}
	errs = append(errs, runtime.EndShim(ctx, runtime.ShimSocket(a.cfg.ContainerdSocket, a.cfg.ContainerdNamespace, uid)))
	if deleted {
		errs = append(errs, a.volumes.TearDown(uid))
	}
	return errors.Join(errs...)
}

func (a *agent) removeContainers(ctx context.Context, uid string) error {
	list, err := a.runtime.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		if c.PodUID == uid {
			errs = append(errs, a.discard(ctx, c.ID))
		}
	}
	return errors.Join(errs...)
}

// discard removes a container and its pipes; its log file stays.
func (a *agent) discard(ctx context.Context, id string) error {
	err := a.runtime.Delete(ctx, id)
	if lerr := a.logs.Close(ctx, id); lerr != nil && err == nil {
		a.log.Debug("pipes of container not released", "container", id, "err", lerr)
	}
	return err
}

// finish removes the pod from the API after its last status is there.
func (w *worker) finish(ctx context.Context) {
	if w.finishing {
		return
	}
	w.finishing = true
	pod := w.pod
	w.jobs.Go(func() {
		_ = retry(ctx, 100*time.Millisecond, 5*time.Second, func() error {
			if err := w.a.status.Flush(ctx, pod.UID); err != nil {
				return err
			}
			grace := int64(0)
			err := w.a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
				GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &pod.UID},
			})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			return err
		}, func(err error) { w.log.Warn("pod not removed from the API, will retry", "err", err) })
	})
}

// forget removes the last traces of a pod that the API does not have any more.
func (w *worker) forget() {
	w.a.status.Forget(w.uid)
	// A pod that had ended kept its volumes until now.
	if err := w.a.volumes.TearDown(string(w.uid)); err != nil {
		w.log.Warn("volumes not removed", "err", err)
	}
	if err := w.a.saved.Delete(string(w.uid)); err != nil {
		w.log.Warn("checkpoint not removed", "err", err)
	}
	dir := filepath.Join(w.a.cfg.LogRoot, podlog.PodDir(w.pod.Namespace, w.pod.Name, string(w.uid)))
	if err := os.RemoveAll(dir); err != nil {
		w.log.Warn("logs not removed", "err", err)
	}
}

// withAddrs returns the pod as its own containers should see it: with its addresses and the node's limits filled in.
func (a *agent) withAddrs(pod *v1.Pod, addrs []netip.Addr) *v1.Pod {
	out := a.machine.fillLimits(pod)
	if len(a.cfg.NodeAddrs) > 0 {
		out.Status.HostIP = a.cfg.NodeAddrs[0].String()
		out.Status.HostIPs = nil
		for _, ip := range a.cfg.NodeAddrs {
			out.Status.HostIPs = append(out.Status.HostIPs, v1.HostIP{IP: ip.String()})
		}
	}
	if len(addrs) > 0 {
		out.Status.PodIP = addrs[0].String()
		out.Status.PodIPs = nil
		for _, ip := range addrs {
			out.Status.PodIPs = append(out.Status.PodIPs, v1.PodIP{IP: ip.String()})
		}
	}
	return out
}

func (a *agent) podCgroup(pod *v1.Pod) string {
	return fmt.Sprintf("%s/pod%s", a.cfg.CgroupParent, pod.UID)
}
