// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/image"
)

// ensureImage makes the container's image present as its pull policy says.
func (j *startJob) ensureImage(ctx context.Context) (image.Image, error) {
	a := j.w.a
	ref, err := image.Normalize(j.spec.Image)
	if err != nil {
		a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "InspectFailed", "Failed to apply default image tag %q: %v", j.spec.Image, err)
		a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "Failed", "Error: InvalidImageName")
		//lint:ignore ST1005 clients read these words
		return image.Image{}, &startError{reason: "InvalidImageName", err: fmt.Errorf("Failed to apply default image tag %q: %w", j.spec.Image, err)}
	}
	policy := pullPolicy(j.spec)
	if policy != v1.PullAlways {
		img, err := a.images.Get(ctx, ref)
		if err == nil {
			a.event(j.pod, j.spec.Name, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", j.spec.Image)
			return img, nil
		}
		if !errors.Is(err, image.ErrNotPresent) {
			return image.Image{}, &startError{reason: "ImageInspectError", err: err, retry: unavailableRetry(err)}
		}
	}
	if policy == v1.PullNever {
		//lint:ignore ST1005 clients read these words
		err := fmt.Errorf("Container image %q is not present with pull policy of Never", j.spec.Image)
		a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "ErrImageNeverPull", "%v", err)
		a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "Failed", "Error: ErrImageNeverPull")
		return image.Image{}, &startError{reason: "ErrImageNeverPull", err: err}
	}
	return j.pull(ctx, ref)
}

// pullPolicy is the policy, or the API's default for an object that was stored without one.
func pullPolicy(c *v1.Container) v1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	_, tag, tagged := strings.Cut(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
	if !strings.Contains(c.Image, "@") && (!tagged || tag == "latest") {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}

func (j *startJob) pull(ctx context.Context, ref string) (image.Image, error) {
	a := j.w.a
	begin := time.Now()
	a.event(j.pod, j.spec.Name, v1.EventTypeNormal, "Pulling", "Pulling image %q", j.spec.Image)
	failed := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", j.spec.Image, err)
		a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		return &startError{reason: "ErrImagePull", err: err}
	}
	// A slot keeps many pods that start at once from starving one another's pulls.
	select {
	case a.pullLimit <- struct{}{}:
		defer func() { <-a.pullLimit }()
	case <-ctx.Done():
		return image.Image{}, ctx.Err()
	}
	turn := time.Now()
	if err := a.puller.Pull(ctx, ref, a.pullCredentials(ctx, j.pod)); err != nil {
		return image.Image{}, failed(err)
	}
	img, err := a.images.Get(ctx, ref)
	if err != nil {
		return image.Image{}, failed(err)
	}
	a.event(j.pod, j.spec.Name, v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		j.spec.Image, time.Since(turn).Truncate(time.Millisecond), time.Since(begin).Truncate(time.Millisecond), img.Size)
	return img, nil
}

// pullCredentials gathers the pod's pull secrets. One that is missing or unreadable is told and passed over, as the image may be public.
func (a *agent) pullCredentials(ctx context.Context, pod *v1.Pod) image.Credentials {
	all := image.Credentials{}
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := a.objects.Secret(ctx, pod.Namespace, ref.Name)
		var got image.Credentials
		if err == nil {
			got, err = image.ParseDockerConfig(secret.Data)
		}
		if err != nil {
			a.event(pod, "", v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		for host, c := range got {
			all[host] = c
		}
	}
	return all
}
