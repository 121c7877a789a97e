# source tools/env.sh: the environment that `make setup` made, for nodes and tests.
_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$_root/.venv/bin:$_root/scripts:$PATH"
if [ -z "${ROS_DISTRO:-}" ]; then
    export AMENT_PREFIX_PATH="$_root/.venv"
fi
set +u
source "$_root/install/local_setup.bash"
export PYTHONPATH="$_root:${PYTHONPATH:-}"
unset _root
