import { all } from '$lib/server/notes';

export const load = () => ({ notes: all() });
