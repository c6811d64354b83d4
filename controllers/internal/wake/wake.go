// Package wake tells controllers what a change concerns.
package wake

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Listed wakes those of a list, which it fills, that keep says yes to; all of them where keep is nil. What cannot be listed
// is told to the log: a watch has nobody to return an error to.
func Listed[T client.Object](ctx context.Context, reader client.Reader, list client.ObjectList, keep func(T) bool, options ...client.ListOption) []reconcile.Request {
	var requests []reconcile.Request
	err := reader.List(ctx, list, options...)
	if err == nil {
		err = meta.EachListItem(list, func(item runtime.Object) error {
			object, ok := item.(T)
			if !ok {
				return fmt.Errorf("there is a %T in it", item)
			}
			if keep == nil || keep(object) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)})
			}
			return nil
		})
	}
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "what a change concerns could not be listed", "list", fmt.Sprintf("%T", list))
		return nil
	}
	return requests
}

// RegistryOfPod wakes the registry that a pod is one of.
func RegistryOfPod(_ context.Context, pod *corev1.Pod) []reconcile.Request {
	if name := pod.Labels[v1alpha1.LabelRegistry]; name != "" {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: name}}}
	}
	return nil
}

// Held lets pass that a finalizer came or went, and deletions.
func Held() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return len(e.ObjectOld.GetFinalizers()) != len(e.ObjectNew.GetFinalizers()) || becameDeleted(e)
	}}
}

// Deleted lets pass that an object is being deleted, of all its changes.
func Deleted() predicate.Predicate { return predicate.Funcs{UpdateFunc: becameDeleted} }

func becameDeleted(e event.UpdateEvent) bool {
	return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
}
