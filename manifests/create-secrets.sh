#!/usr/bin/env bash
# Make the Secrets dwi-stroke-s3, dwi-stroke-mlflow and dwi-stroke-database; safe to run again, prints no value.
#
#   CONTEXT=kind-dwi-stroke manifests/create-secrets.sh
#       S3 keys are copied from KFP's own SeaweedFS; the database gets a random password, once.
#   CONTEXT=... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... DATABASE_URI=... manifests/create-secrets.sh gpu-cluster
#       These values are stored; DATABASE_URI is postgresql+psycopg2://USERNAME:PASSWORD@HOST:5432/DATABASE.
#
# MLflow's login is random, made once. To change it: delete the Secret dwi-stroke-mlflow in dwi-stroke, run this, and
# kubectl -n dwi-stroke rollout restart deployment/mlflow.
# PIPELINE_NAMESPACE (kubeflow) is where KFP runs the steps.
set -euo pipefail
cd "$(dirname "$0")"

: "${CONTEXT:?Set CONTEXT to the kube context to write to (kubectl config get-contexts lists them).}"
PIPELINE_NAMESPACE=${PIPELINE_NAMESPACE:-kubeflow}
OURS=dwi-stroke

kube() { kubectl --context "$CONTEXT" "$@"; }
fail() { echo "create-secrets: $*" >&2; exit 1; }
exists() { [ -n "$(kube -n "$1" get secret "$2" --ignore-not-found -o name)" ]; }
base64_of() { printf %s "$1" | base64 | tr -d '\n'; }
random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# store NAMESPACE NAME KEY=BASE64...   The values go through standard input, not through the list of processes; server-side
# apply leaves no copy of them in an annotation.
store() {
  local namespace=$1 name=$2 pair
  shift 2
  {
    printf 'apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata:\n  name: %s\n  namespace: %s\n' "$name" "$namespace"
    printf '  labels:\n    app.kubernetes.io/part-of: dwi-stroke\ndata:\n'
    for pair in "$@"; do printf '  %s: %s\n' "${pair%%=*}" "${pair#*=}"; done
  } | kube apply --server-side --force-conflicts --field-manager=dwi-stroke -f - >/dev/null
  echo "secret $namespace/$name exists"
}

kube get namespace "$PIPELINE_NAMESPACE" >/dev/null 2>&1 ||
  fail "no namespace '$PIPELINE_NAMESPACE' in context '$CONTEXT', or no cluster. Install Kubeflow Pipelines first."
kube apply -f base/namespace.yaml >/dev/null

case ${1:-kind} in
  kind)
    key() { kube -n kubeflow get secret mlpipeline-minio-artifact -o "jsonpath={.data.$1}"; }
    exists kubeflow mlpipeline-minio-artifact ||
      fail "no Secret mlpipeline-minio-artifact in kubeflow: Kubeflow Pipelines makes it. Is its installation done?"
    id=$(key accesskey) secret=$(key secretkey)
    if ! exists "$OURS" dwi-stroke-database; then
      password=$(random)
      store "$OURS" dwi-stroke-database "username=$(base64_of mlflow)" "password=$(base64_of "$password")" \
        "database=$(base64_of mlflow)" \
        "uri=$(base64_of "postgresql+psycopg2://mlflow:$password@postgres.$OURS.svc.cluster.local:5432/mlflow")"
    fi
    ;;
  gpu-cluster)
    for name in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY DATABASE_URI; do
      [ -n "${!name:-}" ] || fail "set $name (see the top of this script)."
    done
    id=$(base64_of "$AWS_ACCESS_KEY_ID") secret=$(base64_of "$AWS_SECRET_ACCESS_KEY")
    store "$OURS" dwi-stroke-database "uri=$(base64_of "$DATABASE_URI")"
    ;;
  *) fail "'$1' is neither kind nor gpu-cluster." ;;
esac

token=$(base64_of "$(random)")
if exists "$OURS" dwi-stroke-mlflow; then
  token=$(kube -n "$OURS" get secret dwi-stroke-mlflow -o "jsonpath={.data.MLFLOW_TRACKING_TOKEN}")
fi
for namespace in "$OURS" "$PIPELINE_NAMESPACE"; do
  store "$namespace" dwi-stroke-mlflow "MLFLOW_TRACKING_TOKEN=$token"
  store "$namespace" dwi-stroke-s3 "AWS_ACCESS_KEY_ID=$id" "AWS_SECRET_ACCESS_KEY=$secret"
done
