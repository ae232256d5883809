import { error } from '@sveltejs/kit';
import { render } from '$lib/server/notes';

export const load = ({ params }: { params: { slug: string } }) => render(params.slug) ?? error(404, 'no such note');
