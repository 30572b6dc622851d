package controllers

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// updates lets creations and deletions pass, and the changes that matter.
func updates[T client.Object](matters func(before, after T) bool) predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(T)
		after, ok2 := e.ObjectNew.(T)
		return !ok || !ok2 || matters(before, after)
	}}
}

// nodeChanged leaves out what kubelets write all day.
func nodeChanged() predicate.Predicate {
	return updates(func(before, after *corev1.Node) bool {
		return before.UID != after.UID || !maps.Equal(before.Labels, after.Labels) ||
			!slices.Equal(before.Status.Addresses, after.Status.Addresses)
	})
}

// meshNodeChanged leaves out what agents write all day.
func meshNodeChanged() predicate.Predicate {
	return updates(func(before, after *v1alpha1.MeshNode) bool {
		return before.Generation != after.Generation || before.UID != after.UID ||
			ownerUID(before) != ownerUID(after) || allocated(before) != allocated(after)
	})
}

func meshConfigChanged() predicate.Predicate {
	return updates(func(before, after *v1alpha1.MeshConfig) bool { return before.Generation != after.Generation })
}
