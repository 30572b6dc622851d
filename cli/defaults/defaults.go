// Package defaults applies the chart's pools and settings. The chart cannot hold them as part of
// its release: at the first installation their kinds do not exist yet, and Helm would put back on
// each upgrade what a user has changed since. Server-side apply keeps book of who set which field, so
// a field that somebody else has changed is left to them.
package defaults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// FieldManager is the name under which the chart's values own fields.
const FieldManager = "weftnet-chart"

// Parse reads a stream of YAML documents.
func Parse(r io.Reader) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for {
		var object unstructured.Unstructured
		switch err := decoder.Decode(&object.Object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("parse document %d: %w", len(objects)+1, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if object.GetKind() == "" || object.GetName() == "" {
			return nil, fmt.Errorf("document %d has no kind or no name", len(objects)+1)
		}
		objects = append(objects, &object)
	}
}

// ParseBytes is Parse for text in memory.
func ParseBytes(text []byte) ([]*unstructured.Unstructured, error) {
	return Parse(bytes.NewReader(text))
}

// Apply applies the objects in turn. One that the API server refuses does not keep the others
// from being applied; it is part of the error that is returned. What may pass by itself, such as
// an API server that is not there yet or a kind that it does not serve yet, is tried again
// until ctx ends.
func Apply(ctx context.Context, c client.Client, log *slog.Logger, objects []*unstructured.Unstructured) error {
	var faults []error
	for _, object := range objects {
		faults = append(faults, applyPatiently(ctx, c, log, object))
	}
	return errors.Join(faults...)
}

func applyPatiently(ctx context.Context, c client.Client, log *slog.Logger, object *unstructured.Unstructured) error {
	log = log.With("kind", object.GetKind(), "name", object.GetName())
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Cap: 15 * time.Second, Steps: 1 << 30, Jitter: 0.1}
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(ctx context.Context) (bool, error) {
		last = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner(FieldManager))
		switch {
		case last == nil:
			log.Info("applied")
			return true, nil
		case apierrors.IsConflict(last):
			log.Info("left as somebody has edited it", "conflict", last.Error())
			return true, nil
		case passes(last):
			log.Warn("cannot apply yet, trying again", "error", last)
			return false, nil
		default:
			return false, last
		}
	})
	switch {
	case err == nil:
		return nil
	case wait.Interrupted(err) && last != nil:
		err = fmt.Errorf("gave up: %w", last)
	}
	return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
}

// passes says whether a failure can pass by itself. What the API server has refused as invalid or
// forbidden does not.
func passes(err error) bool {
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return true // the CRD is not served yet
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		code := status.Status().Code
		return code >= 500 || code == 429 || apierrors.IsUnauthorized(err)
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) // the network
}
