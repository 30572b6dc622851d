// Package v1alpha1 holds the API types of the group weftnet.io/v1alpha1.
//
// +kubebuilder:object:generate=true
// +groupName=weftnet.io
package v1alpha1
